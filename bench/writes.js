/**
 * Counts the writes to IndexedDB and to localStorage, in `scope.writes`. Self-contained, since it is
 * also sent into a page's workers.
 */
export function watchWrites(scope) {
  scope.writes = 0;
  const count = (Kind, methods) => {
    for (const method of Kind ? methods : []) {
      const original = Kind.prototype[method];
      Kind.prototype[method] = function (...args) {
        scope.writes++;
        return original.apply(this, args);
      };
    }
  };
  count(scope.IDBObjectStore, ["put", "add", "delete", "clear"]);
  count(scope.IDBCursor, ["update", "delete"]);
  count(scope.Storage, ["setItem", "removeItem", "clear"]);
}
