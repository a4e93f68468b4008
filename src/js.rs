//! The wasm-bindgen surface that `js/index.js` is written on: conversions only.
//!
//! Errors are rejected as plain objects `{ code, message, cause }`; the JavaScript side makes the
//! documented error classes of them. Arguments have been checked there.
