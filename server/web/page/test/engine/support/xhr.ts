/** XMLHttpRequest for Node, as far as tus-js-client uses it. What it tells of progress are bytes given to the socket. */

import http from "node:http";

export class NodeXhr {
  status = 0;
  responseText = "";
  onload: (() => void) | null = null;
  onerror: ((error: unknown) => void) | null = null;
  onabort: (() => void) | null = null;
  upload: { onprogress: ((event: { loaded: number; lengthComputable: true }) => void) | null } = { onprogress: null };
  #request: http.ClientRequest | null = null;
  #headers: http.IncomingHttpHeaders = {};
  #open: [string, string] = ["GET", ""];
  #sent: Record<string, string> = {};
  #over = false;

  open(method: string, url: string): void {
    this.#open = [method, url];
  }

  setRequestHeader(name: string, value: string): void {
    this.#sent[name] = value;
  }

  getResponseHeader(name: string): string | null {
    return (this.#headers[name.toLowerCase()] as string | undefined) ?? null;
  }

  send(body: Blob | null): void {
    const [method, url] = this.#open;
    const length = body ? { "Content-Length": String(body.size) } : method === "POST" ? { "Content-Length": "0" } : {};
    const request = http.request(url, { method, headers: { ...this.#sent, ...length }, agent });
    this.#request = request;
    request.on("response", (response) => {
      const pieces: Buffer[] = [];
      response.on("data", (piece: Buffer) => pieces.push(piece));
      response.on("error", (error) => this.#fail(error));
      response.on("end", () => {
        if (this.#over) return;
        this.#over = true;
        this.status = response.statusCode ?? 0;
        this.#headers = response.headers;
        this.responseText = Buffer.concat(pieces).toString();
        this.onload?.();
      });
    });
    request.on("error", (error) => this.#fail(error));
    void this.#write(request, body);
  }

  async #write(request: http.ClientRequest, body: Blob | null): Promise<void> {
    try {
      let loaded = 0;
      if (body) {
        for await (const piece of body.stream()) {
          if (this.#over) return;
          await new Promise<void>((done) => (request.write(piece) ? done() : request.once("drain", done).once("close", done)));
          loaded += piece.length;
          this.upload.onprogress?.({ loaded, lengthComputable: true });
        }
      }
      request.end();
    } catch (error) {
      request.destroy();
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.onerror?.(error);
  }

  abort(): void {
    if (this.#over) return;
    this.#over = true;
    this.#request?.destroy();
    this.onabort?.();
  }
}

const agent = new http.Agent({ keepAlive: false });
