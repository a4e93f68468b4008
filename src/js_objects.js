/**
 * What the JavaScript surface tells of a failure: src/js.rs.
 * @param {string} code @param {string | undefined} detail @param {unknown} cause
 */
export const failure = (code, detail, cause) => ({ code, detail, cause });
