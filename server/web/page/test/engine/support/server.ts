/** The real program, `dropoff-tus serve`, in a folder of its own; and a proxy before it that can misbehave. */

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import net, { type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const PROGRAM = process.env.DROPOFF_TUS_TEST_PROGRAM ?? resolve(import.meta.dirname, "../../../../../../.venv/bin/dropoff-tus");

export interface Drop {
  id: string;
  page_url: string;
  upload_url: string;
  code: string;
}

export interface Upload {
  id: string;
  state: string;
  filename: string;
  length: number;
  sha256: string;
}

export class Server {
  readonly folder = mkdtempSync(join(tmpdir(), "engine."));
  port = 0;
  url = "";
  drop!: Drop;
  #process: ChildProcess | null = null;

  static async make(...options: string[]): Promise<Server> {
    const server = new Server();
    server.port = await freePort();
    server.url = `http://127.0.0.1:${server.port}`;
    const listen = `127.0.0.1:${server.port}`;
    const made = JSON.parse(run("init", "--dir", join(server.folder, "data"), "--listen", listen, ...options, "--json"));
    server.drop = made.drop;
    await server.start();
    return server;
  }

  get config(): string {
    return join(this.folder, "data", "config.toml");
  }

  async start(environment: Record<string, string> = {}): Promise<void> {
    const process_ = spawn(PROGRAM, ["serve", "--config", this.config], {
      stdio: ["ignore", "pipe", "ignore"],
      env: { ...process.env, MONITORING__LISTEN: "", ...environment },
    });
    this.#process = process_;
    await new Promise<void>((done, failed) => {
      process_.stdout?.on("data", (text: Buffer) => String(text).includes("ready") && done());
      process_.on("exit", (code) => failed(new Error(`serve ended with ${code}`)));
    });
  }

  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    const process_ = this.#process;
    if (!process_ || process_.exitCode !== null) return;
    const gone = new Promise((done) => process_.on("close", done));
    process_.kill(signal);
    await gone;
  }

  async remove(): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }

  command(...words: string[]): string {
    return run(...words, "--config", this.config);
  }

  newDrop(...options: string[]): Drop {
    return JSON.parse(this.command("drop", "create", "--name", "Test", ...options, "--json"));
  }

  uploads(drop: Drop = this.drop): Upload[] {
    return JSON.parse(this.command("upload", "list", "--drop", drop.id, "--json"));
  }

  exported(upload: string): Buffer {
    const path = join(this.folder, `export-${upload}`);
    this.command("upload", "export", upload, "--output", path);
    return readFileSync(path);
  }
}

function run(...words: string[]): string {
  return execFileSync(PROGRAM, words, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], maxBuffer: 1 << 28 });
}

/** A port such that the next one is free too, which monitoring takes. */
async function freePort(): Promise<number> {
  for (;;) {
    const port = 20000 + Math.floor(Math.random() * 12000);
    if ((await isFree(port)) && (await isFree(port + 1))) return port;
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((done) => {
    const probe = net.createServer().once("error", () => done(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => done(true)));
  });
}

export type Rule = (request: http.IncomingMessage, response: http.ServerResponse) => boolean | "swallow" | "cut";

/** Of a body that is not passed on as it comes. */
export const FIRST_BYTES = 5 << 20;

/**
 * A proxy before the server. `rule` sees each request first: true if it answered (or cut) it, "swallow" to have the body
 * read whole at once, of which the first bytes are passed on, and the rest after `passOn`; "cut" to read and pass on no
 * more than the first bytes, and cut the line as soon as the server has stored them.
 */
export class Proxy {
  rule: Rule = () => false;
  passOn: () => void = () => undefined;
  #passed = new Promise<void>((done) => {
    this.passOn = done;
  });
  readonly seen: string[] = [];
  /** Where each PATCH wanted to go on. */
  readonly offsets: number[] = [];
  #server = http.createServer((request, response) => void this.#handle(request, response));

  static async before(server: Server): Promise<Proxy> {
    const proxy = new Proxy(server);
    await new Promise<void>((done) => proxy.#server.listen(0, "127.0.0.1", done));
    return proxy;
  }

  private constructor(readonly server: Server) {
    this.#server.requestTimeout = 0;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  page(drop: Drop): string {
    return `${this.url}/d/${drop.id}`;
  }

  async #handle(request: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    this.seen.push(`${request.method} ${request.headers["content-length"] ?? ""}`.trim());
    const offset = Number(request.headers["upload-offset"]);
    if (request.method === "PATCH") this.offsets.push(offset);
    const ruled = this.rule(request, response);
    if (ruled === true) return;
    const options = { method: request.method, headers: { ...request.headers, connection: "close" }, agent: false as const };
    const onward = http.request(this.server.url + request.url, options, (answer) => {
      response.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => request.socket.destroy());
    response.on("close", () => onward.destroy());
    if (ruled === false) {
      request.pipe(onward);
      return;
    }
    if (ruled === "cut") {
      let left = FIRST_BYTES;
      // What is left unread keeps the browser in the middle of its body.
      for await (const piece of request.iterator({ destroyOnReturn: false })) {
        onward.write(piece.subarray(0, left));
        left -= piece.length;
        if (left <= 0) break;
      }
      while ((await this.#stored(request.url ?? "")) < offset + FIRST_BYTES) await new Promise((done) => setTimeout(done, 50));
      request.socket.destroy();
      return;
    }
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    const whole = Buffer.concat(pieces);
    onward.write(whole.subarray(0, FIRST_BYTES));
    await this.#passed;
    onward.write(whole.subarray(FIRST_BYTES));
    onward.end();
  }

  /** How much of an upload the server has stored. */
  async #stored(path: string): Promise<number> {
    const answer = await fetch(this.server.url + path, { method: "HEAD", headers: { "Tus-Resumable": "1.0.0" } });
    return Number(answer.headers.get("Upload-Offset"));
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}
