// What the JavaScript surface tells of a failure: src/js.rs.
export const failure = (code, detail, cause) => ({ code, detail, cause });
