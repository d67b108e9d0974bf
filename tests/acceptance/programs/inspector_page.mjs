// A user at the Inspector's web page: connects, looks at the tools, calls one. What the page shows goes to stdout as JSON.
import { chromium } from "playwright-core";

const { page_url, browser_path, tool, field, value } = JSON.parse(process.argv[2]);
const browser = await chromium.launch({ executablePath: browser_path, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
page.setDefaultTimeout(30_000);
// Its fonts are elsewhere, and nothing here needs them.
const itself = new URL(page_url).origin;
await page.route((url) => url.origin !== itself && url.protocol.startsWith("http"), (route) => route.abort());

await page.goto(page_url);
await page.getByRole("switch").first().click({ force: true });
await page.getByText("Connected", { exact: true }).waitFor();
const protocol = await page.getByText(/^MCP \d{4}-\d{2}-\d{2}$/).first().innerText();
await page.getByText("Tools", { exact: true }).first().click();
const count = await page.getByText(/^Tools \(\d+\)$/).innerText();
await page.getByText(tool, { exact: true }).first().click();
await page.getByLabel(field, { exact: true }).fill(value);
await page.getByRole("button", { name: "Execute Tool" }).click();
await page.getByText("Structured Output").waitFor();
const shown = await page.locator("body").innerText();
console.log(JSON.stringify({ protocol, count, browser: browser.version(), shown }));
await browser.close();
