import { describe } from "@effect/vitest"
import fc from "fast-check"
import { decode, encode, type KeyValueCommand, KeyValueCommandFromBytes } from "../src/KeyValueFormat.ts"
import { anyBytes, anyText, formatContract, tagged } from "./support/formatContract.ts"

describe("KeyValueFormat", () => {
  formatContract<KeyValueCommand>({
    encode,
    decode,
    codec: KeyValueCommandFromBytes,
    values: fc.oneof(
      tagged("set", fc.record({ key: anyText, value: fc.oneof(anyText, anyBytes) })),
      tagged("remove", fc.record({ key: anyText })),
      tagged("clear", fc.constant({})),
      tagged("clearPrefix", fc.record({ prefix: anyText }))
    ),
    examples: [
      [{ type: "set", key: "k", value: "vé" }, "01 01 01000000 6b 01 03000000 76c3a9"],
      [{ type: "set", key: "", value: new Uint8Array([1, 2]) }, "02 01 00000000 02000000 0102"],
      // Half of a surrogate pair has no UTF-8: the whole text stands in UTF-16.
      [{ type: "remove", key: "a\ud83d" }, "03 02 04000000 61003dd8"],
      [{ type: "clear" }, "04"],
      // A byte order mark belongs to the text.
      [{ type: "clearPrefix", prefix: "\ufeffx" }, "05 01 04000000 efbbbf78"]
    ],
    refusals: [
      ["", "TooShort", 0],
      ["00", "UnknownTag", 0],
      ["06", "UnknownTag", 0],
      ["03 03 00000000", "UnknownEncoding", 1],
      ["03 01 01000000 ff", "BadText", 6],
      ["03 02 03000000 610062", "BadText", 6],
      ["03 01 ffffffff 61", "TooShort", 6],
      ["04 00", "TooLong", 1]
    ]
  })
})
