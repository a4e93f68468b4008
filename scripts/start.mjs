// `npm start`: installs what is missing, builds, and serves the demo.
import { build } from "./build.mjs";
import { say, script } from "./lib.mjs";
import { serve } from "./serve.mjs";

const PORT = 8137;

script(async () => {
  await build();
  const wanted = process.env.PORT === undefined ? PORT : Number(process.env.PORT);
  const served = await serve({ port: wanted }).catch((error) => {
    if (error.code !== "EADDRINUSE") throw error;
    say(`port ${wanted} is taken; using another`);
    return serve();
  });
  say(`the demo is at ${served.origin}/ : open it in two tabs (ctrl-C ends)`);
});
