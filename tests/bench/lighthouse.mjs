// Lighthouse's figures for each step of the upload page, of which only the first has an address of its own.
// By hand, in an empty folder, since it brings 180 MB:
//   npm install lighthouse puppeteer-core && node …/tests/bench/lighthouse.mjs LINK-WITH-CODE FILE
// FILE has to take a while, so that sending is seen: some GB.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const here = createRequire(join(process.cwd(), "package.json"));
const load = (name) => import(pathToFileURL(here.resolve(name)).href);
const [{ startFlow, desktopConfig }, { default: puppeteer }] = await Promise.all(["lighthouse", "puppeteer-core"].map(load));
const [link, file] = process.argv.slice(2);
const browser = await puppeteer.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
for (const [device, config] of [["phone", undefined], ["desktop", desktopConfig]]) {
  const page = await (await browser.createBrowserContext()).newPage();
  const flow = await startFlow(page, { config });
  const at = async (selector, name) => {
    await page.waitForSelector(selector, { timeout: 600_000 });
    await flow.snapshot({ name });
  };
  const press = () => page.click("button.main");
  await flow.navigate(link.replace(/#.*/, ""), { name: "code" });
  await page.goto(link);
  await at("main[data-state=about]", "about");
  await press();
  await at("main[data-state=choose]", "choose, nothing chosen");
  await (await page.$("input[type=file]:not([webkitdirectory])")).uploadFile(file);
  await at("#chosen ~ .acts button.main", "choose");
  await press();
  await at("main[data-part=review]", "review");
  await press();
  await at("main[data-state=sending]:not([data-part])", "sending");
  await at("main[data-state=done]", "done");
  for (const { name, lhr } of (await flow.createFlowResult()).steps) {
    const kinds = ["accessibility", "best-practices"];
    const figures = kinds.map((kind) => `${kind} ${100 * lhr.categories[kind].score}`);
    const failed = kinds.flatMap((kind) => lhr.categories[kind].auditRefs).filter(({ id }) => lhr.audits[id].score === 0);
    console.log(`${device}, ${name}: ${figures.join(", ")}`, ...failed.map(({ id }) => id));
  }
}
await browser.close();
