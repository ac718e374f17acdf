// A page with documents, images, 100 parallel requests and a WebSocket, and the browser that renders it by proxy.
"use strict";
const assert = require("node:assert");
const crypto = require("node:crypto");
const http = require("node:http");
const { chromium } = require("playwright-core");

const PARALLEL = 100;
const IMAGES = 20;
const BIG = 2 << 20;
const executablePath = process.env.SSR_CHROMIUM || "/usr/bin/chromium";

const svg = (n) =>
  `<svg xmlns="http://www.w3.org/2000/svg" width="${n + 1}" height="10"><rect width="${n + 1}" height="10"/></svg>`;

const page = `<!doctype html><meta charset="utf-8"><title>loading</title><link rel="stylesheet" href="/style.css">
<h1>through the proxy</h1>
${Array.from({ length: IMAGES }, (_, n) => `<img src="/image/${n}.svg" alt="">`).join("")}
<iframe src="/frame.html"></iframe>
<script type="module">
const results = {};
const bodies = await Promise.all(Array.from({ length: ${PARALLEL} }, async (_, n) => (await fetch("/n/" + n)).text()));
results.parallel = bodies.filter((body, n) => body === "number " + n).length;
results.big = (await (await fetch("/big")).arrayBuffer()).byteLength;
const upload = new Uint8Array(${BIG}).fill(7);
results.upload = Number(await (await fetch("/upload", { method: "POST", body: upload })).text());
results.socket = await new Promise((resolve, reject) => {
  const socket = new WebSocket("ws://" + location.host + "/echo");
  const seen = [];
  socket.onopen = () => ["one", "two", "three"].forEach((word) => socket.send(word));
  socket.onmessage = (event) => { seen.push(event.data); if (seen.length === 3) resolve(seen.join(" ")); };
  socket.onerror = () => reject(new Error("the WebSocket failed"));
});
globalThis.results = results;
document.title = "done";
</script>`;

const routes = [
  [/^\/$/, () => ["text/html", page]],
  [/^\/frame\.html$/, () => ["text/html", "<p>a document of its own</p>"]],
  [/^\/style\.css$/, () => ["text/css", "h1 { color: rgb(1, 2, 3); }"]],
  [/^\/image\/(\d+)\.svg$/, (n) => ["image/svg+xml", svg(Number(n))]],
  [/^\/n\/(\d+)$/, (n) => ["text/plain", `number ${n}`]],
  [/^\/big$/, () => ["application/octet-stream", Buffer.alloc(BIG, 1)]],
];

function serve(address, port) {
  const server = http.createServer((request, response) => {
    if (request.url === "/upload") {
      let length = 0;
      request.on("data", (chunk) => (length += chunk.length));
      request.on("end", () => response.end(String(length)));
      return;
    }
    for (const [path, answer] of routes) {
      const match = path.exec(request.url);
      if (match) {
        const [type, body] = answer(match[1]);
        response.writeHead(200, { "content-type": type, "cache-control": "no-store" });
        response.end(body);
        return;
      }
    }
    response.writeHead(404).end();
  });
  server.on("upgrade", upgrade);
  return new Promise((resolve) => server.listen(port, address, () => resolve(server)));
}

// RFC 6455, as far as an echo of short text messages needs it.
function upgrade(request, socket) {
  const accept = crypto
    .createHash("sha1")
    .update(request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
    .digest("base64");
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
  );
  let pending = Buffer.alloc(0);
  socket.on("error", () => {});
  socket.on("data", (data) => {
    pending = Buffer.concat([pending, data]);
    while (pending.length >= 6) {
      const length = pending[1] & 0x7f;
      if (pending.length < 6 + length) return;
      const mask = pending.subarray(2, 6);
      const text = pending.subarray(6, 6 + length).map((byte, i) => byte ^ mask[i % 4]);
      if ((pending[0] & 0x0f) === 8) return socket.end();
      socket.write(Buffer.concat([Buffer.from([0x81, length]), text]));
      pending = pending.subarray(6 + length);
    }
  });
}

// Renders the page at `url`, with `proxy` as Chromium's arguments.
async function render(url, proxy) {
  const browser = await chromium.launch({
    executablePath,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...proxy,
    ],
  });
  try {
    const tab = await browser.newPage();
    const failed = [];
    tab.on("requestfailed", (request) => failed.push(`${request.url()}: ${request.failure().errorText}`));
    const started = Date.now();
    const response = await tab.goto(url, { timeout: 30000 });
    assert.strictEqual(response.status(), 200);
    await tab.waitForFunction(() => document.title === "done", null, { timeout: 30000 });
    await tab.waitForLoadState("load");
    const took = Date.now() - started;
    assert.deepStrictEqual(await tab.evaluate(() => globalThis.results), {
      parallel: PARALLEL,
      big: BIG,
      upload: BIG,
      socket: "one two three",
    });
    const widths = await tab.$$eval("img", (images) => images.map((image) => image.naturalWidth));
    assert.deepStrictEqual(widths, Array.from({ length: IMAGES }, (_, n) => n + 1));
    const color = await tab.$eval("h1", (heading) => getComputedStyle(heading).color);
    assert.strictEqual(color, "rgb(1, 2, 3)");
    assert.strictEqual(await tab.frames()[1].textContent("p"), "a document of its own");
    assert.deepStrictEqual(failed.filter((line) => !line.includes("favicon")), []);
    console.log(`rendered in ${took} ms`);
  } finally {
    await browser.close();
  }
}

async function throughProxy(port, scheme) {
  const server = await serve("127.0.0.1", 0);
  try {
    await render(`http://localhost:${server.address().port}/`, [
      `--proxy-server=${scheme}://127.0.0.1:${port}`,
      "--proxy-bypass-list=<-loopback>", // loopback, too, goes by the proxy
    ]);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

async function main(how, ...more) {
  switch (how) {
    case "serve":
      await serve(more[0], Number(more[1]));
      console.log("serving");
      return;
    case "direct":
      return render(more[0], ["--no-proxy-server"]);
    default:
      return throughProxy(Number(how), more[0] || "socks5");
  }
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
