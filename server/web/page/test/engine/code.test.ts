import { expect, test } from "vitest";
import { normaliseCode } from "../../src/engine/code";

test.each([
  ["ABCD-EFGH-JKMN-PQRS", "ABCDEFGHJKMNPQRS"],
  ["abcd efgh jkmn pqrs", "ABCDEFGHJKMNPQRS"],
  ["  abcd—efgh–jkmn−pqrs\r\n", "ABCDEFGHJKMNPQRS"],
  ["“OoIi-LlAA”", "00111" + "1AA"],
  ["ａｂｃｄ０１２３", "ABCD0123"],
  ["AB\u200bCD\u00a0EF\u202eGH", "ABCDEFGH"],
  ["", ""],
  ["--- ---", ""],
])("%j is read as %j", (typed, code) => expect(normaliseCode(typed)).toBe(code));
