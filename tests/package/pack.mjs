// The tarball that npm would publish, put where apps have it.
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { must } from "../../scripts/lib.mjs";

/** Packs, and unpacks into the `node_modules` of each folder. Resolves with the names of its files. */
export async function installPacked(...apps) {
  const folder = mkdtempSync(join(tmpdir(), "tab-lease-packed-"));
  try {
    const told = JSON.parse(
      await must("npm", ["pack", "--json", "--pack-destination", folder], { quiet: "stdout" }),
    );
    const [{ filename, files }] = Object.values(told);
    for (const app of apps) {
      const to = join(app, "node_modules/tab-lease");
      rmSync(to, { recursive: true, force: true });
      mkdirSync(to, { recursive: true });
      await must("tar", ["xzf", join(folder, filename), "--strip-components=1", "-C", to]);
    }
    return files.map(({ path }) => path).sort();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
