/**
 * What this browser remembers of uploads, to go on after a reload. Never a code, a name or content: the key of a record
 * is an HMAC of drop-off, path, size and time under a key that is made here and cannot be taken out, and a record has the
 * upload's URL, sizes and times. Where IndexedDB cannot be had, as in some private windows, all is gone with the page.
 */

export interface Record_ {
  key: string;
  /** The drop-off, by HMAC. */
  drop: string;
  url: string;
  /** Of the file, and of it what was stored when this was written. */
  size: number;
  stored: number;
  /** When the server lets the part go; 0 if it never does. */
  expires: number;
  /** When it was complete; 0 while it is not. */
  done: number;
  /** Its creation was asked for, under a token of ours, and not answered yet. */
  asked?: true;
  /** Of a sealed upload that goes on: what its next bytes are sealed with. */
  seal?: StoredSeal;
}

export interface StoredSeal {
  header: Uint8Array;
  /** The stream key, encrypted under this browser's own. */
  wrapped: ArrayBuffer;
  iv: Uint8Array;
  span: Span;
}

/** What is known of a sealed file's chunks, so that none is sealed twice with two contents. */
export interface Span {
  /** The first chunk that may have to be sealed again: none below is. */
  from: number;
  /** A keyed digest of each chunk that may have left the browser, from the begin of the block that `from` is in. */
  marks: Uint8Array;
  /** A digest of the digests of each whole block below. */
  blocks: Uint8Array;
}

/** What was begun at one visit and is not complete; one for each drop-off. */
export interface Visit {
  drop: string;
  began: number;
  files: number;
  folders: number;
  bytes: number;
}

const DATABASE = "dropoff-tus";
const KEPT_AFTER_DONE_MS = 90 * 86_400_000;
const FLUSH_MS = 250;

export class Store {
  #database: IDBDatabase | null = null;
  #hmac?: CryptoKey;
  #aes?: CryptoKey;
  #pending = new Map<string, Record_ | null>();
  /** The write that is to come, and the last one that has begun. */
  #flushing: Promise<void> | null = null;
  #writing: Promise<void> = Promise.resolve();

  /** Open it, and forget what is too old to be of use. */
  static async open(): Promise<Store> {
    const store = new Store();
    // Without WebCrypto, on a page that did not come by https, there are no keys: then nothing may be written.
    if (!globalThis.crypto?.subtle) return store;
    try {
      const opening = indexedDB.open(DATABASE, 1);
      opening.onupgradeneeded = () => {
        opening.result.createObjectStore("keys");
        opening.result.createObjectStore("visits", { keyPath: "drop" });
        opening.result.createObjectStore("uploads", { keyPath: "key" }).createIndex("drop", "drop");
      };
      store.#database = await asked(opening);
      await Promise.all([store.#takeKeys(), store.#forgetOld()]);
    } catch {
      // A private window, or storage that is refused: `#pending` is all the memory there is.
      store.#database = null;
      await store.#takeKeys();
    }
    return store;
  }

  async #takeKeys(): Promise<void> {
    [this.#hmac, this.#aes] = await Promise.all([
      this.#key("hmac", { name: "HMAC", hash: "SHA-256" }, ["sign"]),
      this.#key("aes", { name: "AES-GCM", length: 256 }, ["encrypt", "decrypt"]),
    ]);
  }

  /** Make a key of this browser at its first use. Of two tabs that do so at once, the first one's stays. */
  async #key(name: string, algorithm: HmacKeyGenParams | AesKeyGenParams, uses: KeyUsage[]): Promise<CryptoKey> {
    const fresh = (await crypto.subtle.generateKey(algorithm, false, uses)) as CryptoKey;
    if (!this.#database) return fresh;
    const keys = this.#open("readwrite", "keys").objectStore("keys");
    const present = (await asked(keys.get(name))) as CryptoKey | undefined;
    if (!present) await asked(keys.add(fresh, name));
    return present ?? fresh;
  }

  #open(mode: IDBTransactionMode, ...stores: string[]): IDBTransaction {
    if (!this.#database) throw new Error("no database");
    return this.#database.transaction(stores, mode, { durability: "strict" });
  }

  /** Name something by HMAC; without a key by a name that holds for this page alone, and is never stored. */
  async name(...parts: (string | number)[]): Promise<string> {
    if (!this.#hmac) return parts.join("\0");
    const mac = await crypto.subtle.sign("HMAC", this.#hmac, new TextEncoder().encode(parts.join("\0")));
    return btoa(String.fromCharCode(...new Uint8Array(mac)));
  }

  async get(key: string): Promise<Record_ | null> {
    const pending = this.#pending.get(key);
    if (pending !== undefined || !this.#database) return pending ?? null;
    return ((await asked(this.#open("readonly", "uploads").objectStore("uploads").get(key))) as Record_) ?? null;
  }

  /** Write or forget soon, together with others. What must be durable before going on awaits `flushed`. */
  put(key: string, record: Record_ | null): void {
    this.#pending.set(key, record);
    this.#flushing ??= new Promise((done) => setTimeout(done, FLUSH_MS)).then(() => {
      this.#writing = this.#flush();
      return this.#writing;
    });
  }

  /** Wait until all that was put is durable. */
  async flushed(): Promise<void> {
    while (this.#flushing) await this.#flushing;
    await this.#writing;
  }

  /**
   * Write one record, and be sure of it where there is a database.
   *
   * Raises the database's error: what depends on the record must not be done, for an older one may be there.
   */
  async putNow(record: Record_): Promise<void> {
    this.#pending.set(record.key, record);
    if (!this.#database) return;
    const change = this.#open("readwrite", "uploads");
    change.objectStore("uploads").put(record);
    await finished(change);
  }

  async #flush(): Promise<void> {
    const writes = [...this.#pending];
    // What is put from here on is for the next time.
    this.#flushing = null;
    if (!this.#database) return;
    try {
      const change = this.#open("readwrite", "uploads");
      const uploads = change.objectStore("uploads");
      for (const [key, record] of writes) record ? uploads.put(record) : uploads.delete(key);
      await finished(change);
    } catch {
      // Storage is full or was taken away: sending goes on, and a reload begins anew.
    }
    for (const [key, record] of writes) if (this.#pending.get(key) === record) this.#pending.delete(key);
  }

  /** All records of a drop-off. */
  async all(drop: string): Promise<Record_[]> {
    if (!this.#database) return [...this.#pending.values()].filter((record) => record?.drop === drop) as Record_[];
    await this.flushed();
    const uploads = this.#open("readonly", "uploads").objectStore("uploads");
    return (await asked(uploads.index("drop").getAll(drop))) as Record_[];
  }

  async visit(drop: string): Promise<Visit | null> {
    if (!this.#database) return null;
    return ((await asked(this.#open("readonly", "visits").objectStore("visits").get(drop))) as Visit) ?? null;
  }

  async putVisit(drop: string, visit: Visit | null): Promise<void> {
    if (!this.#database) return;
    const change = this.#open("readwrite", "visits");
    if (visit) change.objectStore("visits").put(visit);
    else change.objectStore("visits").delete(drop);
    await finished(change).catch(() => undefined);
  }

  async #forgetOld(): Promise<void> {
    const uploads = this.#open("readwrite", "uploads").objectStore("uploads");
    const now = Date.now();
    const cursor = uploads.openCursor();
    await new Promise<void>((done, failed) => {
      cursor.onerror = () => failed(cursor.error);
      cursor.onsuccess = () => {
        if (!cursor.result) return done();
        const record = cursor.result.value as Record_;
        if (record.done ? record.done + KEPT_AFTER_DONE_MS < now : record.expires && record.expires < now) {
          cursor.result.delete();
        }
        cursor.result.continue();
      };
    });
  }

  /** Encrypt a key under this browser's own, so that the database's files alone do not give it away. */
  async wrap(key: Uint8Array): Promise<{ wrapped: ArrayBuffer; iv: Uint8Array } | null> {
    if (!this.#aes) return null;
    const iv = crypto.getRandomValues(new Uint8Array(12));
    return { wrapped: await crypto.subtle.encrypt({ name: "AES-GCM", iv }, this.#aes, key as BufferSource), iv };
  }

  async unwrap(seal: StoredSeal): Promise<Uint8Array | null> {
    if (!this.#aes) return null;
    try {
      const iv = seal.iv as BufferSource;
      return new Uint8Array(await crypto.subtle.decrypt({ name: "AES-GCM", iv }, this.#aes, seal.wrapped));
    } catch {
      return null;
    }
  }
}

function asked<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((done, failed) => {
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
}

function finished(transaction: IDBTransaction): Promise<void> {
  return new Promise((done, failed) => {
    transaction.oncomplete = () => done();
    transaction.onabort = transaction.onerror = () => failed(transaction.error);
  });
}
