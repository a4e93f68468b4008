/**
 * Counts the writes to IndexedDB and to localStorage, in `scope.writes`, and the readwrite transactions, in
 * `scope.transactions`. Self-contained, since it is also sent into a page's workers.
 */
export function watchWrites(scope) {
  scope.writes = 0;
  scope.transactions = 0;
  const begin = scope.IDBDatabase?.prototype.transaction;
  if (begin) {
    scope.IDBDatabase.prototype.transaction = function (stores, mode, ...rest) {
      if (mode === "readwrite") scope.transactions++;
      return begin.call(this, stores, mode, ...rest);
    };
  }
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
