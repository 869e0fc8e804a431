import { describe } from "@effect/vitest"
import fc from "fast-check"
import {
  decode,
  encode,
  entryIdBytes,
  type JournalCommand,
  JournalCommandFromBytes
} from "../src/EventJournalFormat.ts"
import { anyBytes, anyText, formatContract, tagged } from "./support/formatContract.ts"

const fixed = (length: number) =>
  fc.uint8Array({ minLength: length, maxLength: length }).map((bytes) => new Uint8Array(bytes))
const remoteId = fc.uint8Array({ minLength: 1, maxLength: 20 }).map((bytes) => new Uint8Array(bytes))
const u53 = fc.maxSafeNat()

const id = new Uint8Array(Array.from({ length: entryIdBytes }, (_, i) => i))
const idHex = "000102030405060708090a0b0c0d0e0f"
const remote = new Uint8Array([0xaa, 0xbb])

describe("EventJournalFormat", () => {
  formatContract<JournalCommand>({
    encode,
    decode,
    codec: JournalCommandFromBytes,
    values: fc.oneof(
      tagged(
        "entry",
        fc.record({
          id: fixed(entryIdBytes),
          source: fc.option(remoteId, { nil: undefined }),
          event: anyText,
          primaryKey: anyText,
          payload: anyBytes
        })
      ),
      tagged("next", fc.record({ remoteId, next: u53 })),
      tagged("acks", fc.record({ remoteId, firstSequence: u53, sequences: fc.array(u53) })),
      tagged("uploaded", fc.record({ remoteId, insertion: u53 })),
      tagged("destroy", fc.constant({})),
      tagged("base", fc.record({ insertions: u53 }))
    ),
    examples: [
      [
        { type: "entry", id, source: undefined, event: "E", primaryKey: "p", payload: new Uint8Array([9]) },
        `01 ${idHex} 00 01 01000000 45 01 01000000 70 01000000 09`
      ],
      [
        { type: "entry", id, source: remote, event: "E", primaryKey: "", payload: new Uint8Array(0) },
        `01 ${idHex} 02 aabb 01 01000000 45 01 00000000 00000000`
      ],
      [{ type: "next", remoteId: remote, next: 258 }, "02 0201000000000000 02 aabb"],
      [
        { type: "acks", remoteId: remote, firstSequence: 1, sequences: [2, 3] },
        "03 0100000000000000 02000000 0200000000000000 0300000000000000 02 aabb"
      ],
      [{ type: "uploaded", remoteId: remote, insertion: 5 }, "04 0500000000000000 02 aabb"],
      [{ type: "destroy" }, "05"],
      [{ type: "base", insertions: Number.MAX_SAFE_INTEGER }, "06 ffffffffffff1f00"]
    ],
    refusals: [
      ["", "TooShort", 0],
      ["07", "UnknownTag", 0],
      ["02 0000000000002000 02 aabb", "OutOfRange", 1],
      ["02 0000000000000000 00", "BadLength", 10],
      ["03 0100000000000000 ffffffff 02 aabb", "TooShort", 13],
      [`01 ${idHex} 05 aabb`, "TooShort", 18],
      ["05 00", "TooLong", 1]
    ]
  })
})
