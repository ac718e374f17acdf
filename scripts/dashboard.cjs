// Uses the dashboard as an operator does: scripts/browser dashboard URL TOKEN [DIRECTORY for screenshots].
"use strict";
const assert = require("node:assert");
const { chromium } = require("playwright-core");

const executablePath = process.env.SSR_CHROMIUM || "/usr/bin/chromium";
const [url, token, directory] = process.argv.slice(2);
const VIEWS = [
  { name: "desktop", viewport: { width: 1280, height: 900 } },
  { name: "phone", viewport: { width: 390, height: 844 } },
];

/** Tab until the focus is on what matches, as somebody without a mouse. */
async function tabTo(page, selector) {
  for (let step = 0; step < 60; step += 1) {
    if (await page.evaluate((wanted) => document.activeElement?.matches(wanted), selector)) return;
    await page.keyboard.press("Tab");
  }
  assert.fail(`the keyboard does not reach ${selector}`);
}

async function asServer(page) {
  const row = page.locator("#users tr", { hasText: "ann" });
  await row.waitFor();
  assert.ok(await row.locator("progress").count(), "a quota has a bar");
  await page.locator("#sessions tr", { hasText: "tcp" }).first().waitFor();
  // A user, by keyboard alone.
  await tabTo(page, "#add");
  await page.keyboard.press("Enter");
  await page.locator("#edit[open]").waitFor();
  await page.keyboard.type("zoe");
  await page.keyboard.press("Tab");
  await page.keyboard.type("5");
  await page.keyboard.press("Enter");
  await page.locator("#shown[open]").waitFor();
  assert.match(await page.inputValue("#link"), /^ss:\/\/.*#zoe$/);
  assert.ok((await page.locator("#qr").evaluate((picture) => picture.naturalWidth)) > 20, "the QR code is drawn");
  if (directory) await page.screenshot({ path: `${directory}/link.png` });
  await page.keyboard.press("Escape");
  await page.locator("#users tr", { hasText: "zoe" }).waitFor();
  // It is removed after a question.
  await page.getByRole("button", { name: "Remove zoe" }).click();
  await page.getByRole("button", { name: "Yes" }).click();
  await page.locator("#users tr", { hasText: "zoe" }).waitFor({ state: "detached" });
  // A session is closed.
  const close = page.getByRole("button", { name: /^Close session/ });
  assert.ok(await close.count());
  await close.first().click();
  await page.locator("#sessions tr", { hasText: "tcp" }).waitFor({ state: "detached" });
  await page.locator("#causes li").first().waitFor();
}

async function asLocal(page) {
  await page.locator("#servers tr", { hasText: "two" }).waitFor();
  await page.getByRole("button", { name: "Use two" }).click();
  await page.locator("#servers tr", { hasText: "(chosen)" }).waitFor();
  await page.getByRole("button", { name: "Choose servers automatically" }).click();
  await page.locator("#servers tr", { hasText: "(chosen)" }).waitFor({ state: "detached" });
}

async function main() {
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  const problems = [];
  for (const { name, viewport } of VIEWS) {
    for (const colorScheme of ["light", "dark"]) {
      const page = await browser.newPage({ viewport, colorScheme });
      page.on("pageerror", (error) => problems.push(String(error)));
      page.on("console", (line) => {
        // Without the token, the first call is refused.
        if (line.type() === "error" && !line.text().includes("401")) problems.push(line.text());
      });
      page.on("request", (request) => {
        if (!/^(data:|blob:)/.test(request.url()) && new URL(request.url()).origin !== new URL(url).origin) {
          problems.push(`a request to ${request.url()}`);
        }
      });
      await page.goto(url);
      await page.locator("#login").waitFor();
      await page.fill("#token", "wrong");
      await page.keyboard.press("Enter");
      await page.locator("#login-error", { hasText: "wrong" }).waitFor();
      await page.fill("#token", token);
      await page.keyboard.press("Enter");
      await page.locator("#content").waitFor();
      await page.locator("#t-down", { hasText: "/s" }).waitFor();
      const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
      assert.ok(!wide, `${name}: the page does not fit`);
      if (directory) await page.screenshot({ path: `${directory}/${name}-${colorScheme}.png`, fullPage: true });
      if (name === "desktop" && colorScheme === "light") {
        const role = await page.textContent("#role");
        await (role === "local" ? asLocal(page) : asServer(page));
      }
      await page.close();
    }
  }
  await browser.close();
  assert.deepStrictEqual(problems, []);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
