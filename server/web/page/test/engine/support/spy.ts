/** The nonce spy: everything that is encrypted with ChaCha20-Poly1305, by age itself too. */

import { hash } from "node:crypto";
import { expect } from "vitest";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

/** By key and nonce, the digests of the contents. */
export const spied = new Map<string, Set<string>>();

type Module = typeof import("@noble/ciphers/chacha.js");

/** Wrap the cipher; for `vi.mock("@noble/ciphers/chacha.js")`, which gives the real module. */
export async function spyOnChacha(original: () => Promise<unknown>): Promise<Module> {
  const real = (await original()) as Module;
  const spy = (key: Uint8Array, nonce: Uint8Array, more?: Uint8Array) => {
    const cipher = real.chacha20poly1305(key, nonce, more);
    const encrypt = (plain: Uint8Array, output?: Uint8Array) => {
      const at = `${hex(key)} ${hex(nonce)}`;
      spied.set(at, (spied.get(at) ?? new Set()).add(hash("sha256", plain)));
      return cipher.encrypt(plain, output);
    };
    return { ...cipher, encrypt };
  };
  return { ...real, chacha20poly1305: spy as Module["chacha20poly1305"] };
}

/** The heart of it: under one key and one nonce there is one content. */
export function expectOneContentEach(): void {
  expect(spied.size).toBeGreaterThan(0);
  for (const contents of spied.values()) expect(contents.size).toBe(1);
}
