require("fake-indexeddb/auto");
require("../scenario.cjs")(require("tab-lease")).then(console.log);
