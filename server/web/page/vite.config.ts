import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

/** Marks the end of the head, where the server links the institute's colours: they follow the page's own style. */
const brandPlace: Plugin = {
  name: "brand-place",
  transformIndexHtml: { order: "post", handler: (html) => html.replace("</head>", "<!--brand-->\n</head>") },
};

/** Puts a .br and a .gz beside each asset: the server compresses nothing itself. */
const compressed: Plugin = {
  name: "compressed",
  writeBundle({ dir }) {
    const assets = join(dir!, "assets");
    for (const name of readdirSync(assets)) {
      const plain = readFileSync(join(assets, name));
      writeFileSync(join(assets, `${name}.gz`), gzipSync(plain, { level: 9 }));
      const params = { [constants.BROTLI_PARAM_SIZE_HINT]: plain.length };
      writeFileSync(join(assets, `${name}.br`), brotliCompressSync(plain, { params }));
    }
  },
};

/** Writes the licences of what may be bundled: of the page's dependencies and theirs, since Vite leaves out the worker's. */
const licenses: Plugin = {
  name: "licenses",
  writeBundle({ dir }) {
    const texts = new Map<string, string>();
    const add = (name: string) => {
      const folder = join("node_modules", name);
      const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
      if (texts.has(name)) return;
      const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
      const text = file ? readFileSync(join(folder, file), "utf8").trim() : about.license;
      texts.set(name, `## ${name} ${about.version} (${about.license})\n\n${text}\n`);
      Object.keys(about.dependencies ?? {}).forEach(add);
    };
    const { dependencies } = JSON.parse(readFileSync("package.json", "utf8"));
    Object.keys(dependencies).filter((name) => name !== "vite").forEach(add);
    writeFileSync(join(dir!, "licenses.md"), `# Licenses\n\n${[...texts.values()].join("\n")}`);
  },
};

/** `vite build` makes what is shipped; `vite build --mode states` a page for tests that shows any state without a server. */
export default defineConfig(({ mode }) => {
  const states = mode === "states";
  return {
    base: "./", // the page is PREFIX/d/<id> and its assets are PREFIX/d/assets/, whatever the prefix
    plugins: [brandPlace, compressed, ...(states ? [] : [licenses])],
    oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
    build: {
      outDir: states ? "../../../build/states" : "../built",
      emptyOutDir: true,
      target: ["chrome111", "firefox115", "safari16.4"],
      modulePreload: { polyfill: false },
      assetsInlineLimit: 0, // nothing from data: URLs
      rolldownOptions: { input: states ? "states.html" : "index.html", checks: { pluginTimings: false } },
    },
    worker: { format: "es" },
    test: {
      include: ["src/**/*.test.ts", "src/**/*.test.tsx", "test/**/*.test.ts"],
      setupFiles: "test/engine/support/setup.ts",
      // As a browser has it; by itself Node would take the one for Node.
      alias: { "tus-js-client": "tus-js-client/lib.esm/browser/index.js" },
      server: { deps: { inline: ["tus-js-client", "age-encryption"] } },
      testTimeout: 180_000,
      hookTimeout: 180_000,
      maxWorkers: 2,
    },
  };
});
