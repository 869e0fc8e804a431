import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import {
  decode,
  encode,
  itemHeadBytes,
  recordHeadBytes,
  type StateRecord,
  StateRecordFromBytes
} from "../src/StateRecordFormat.ts"
import { anyBytes, formatContract, tagged } from "./support/formatContract.ts"

const items = fc.array(anyBytes, { maxLength: 4 })
const u32 = fc.nat(0xffffffff)

describe("StateRecordFormat", () => {
  formatContract<StateRecord>({
    encode,
    decode,
    codec: StateRecordFromBytes,
    values: fc.oneof(
      tagged("begin", fc.record({ kind: fc.stringMatching(/^[A-Z]{4}$/) })),
      tagged("items", fc.record({ items })),
      tagged("end", fc.record({ itemsRecords: u32 })),
      tagged("commands", fc.record({ isFirst: fc.boolean(), isLast: fc.boolean(), items }))
    ),
    examples: [
      [{ type: "begin", kind: "KVST" }, "81 01 0000 4b565354"],
      [
        { type: "items", items: [new Uint8Array([7]), new Uint8Array(0), new Uint8Array([8, 9])] },
        "82 00 0000 03000000 01000000 07 00000000 02000000 0809"
      ],
      [{ type: "items", items: [] }, "82 00 0000 00000000"],
      [{ type: "end", itemsRecords: 258 }, "83 00 0000 02010000"],
      [
        { type: "commands", isFirst: true, isLast: true, items: [new Uint8Array([5])] },
        "84 03 0000 01000000 01000000 05"
      ],
      [{ type: "commands", isFirst: true, isLast: false, items: [] }, "84 01 0000 00000000"],
      [{ type: "commands", isFirst: false, isLast: true, items: [] }, "84 02 0000 00000000"],
      [{ type: "commands", isFirst: false, isLast: false, items: [] }, "84 00 0000 00000000"]
    ],
    refusals: [
      ["", "TooShort", 0],
      ["8100000000", "TooShort", 0],
      ["01 00 0000 00000000", "UnknownTag", 0],
      ["80 00 0000 00000000", "UnknownTag", 0],
      ["85 00 0100 00000000", "UnknownTag", 0],
      ["81 02 0000 4b565354", "UnsupportedVersion", 1],
      ["81 01 0100 4b565354", "NotZero", 2],
      ["81 01 0000 4b565330", "BadKind", 4],
      ["81 01 0000 4b565354 00", "TooLong", 8],
      ["82 01 0000 00000000", "NotZero", 1],
      ["82 00 0000 ffffffff", "TooShort", 8],
      ["82 00 0000 01000000 05000000 0000", "TooShort", 12],
      ["82 00 0000 01000000 00000000 00", "TooLong", 12],
      ["83 04 0000 00000000", "NotZero", 1],
      ["84 04 0000 00000000", "BadFlags", 1]
    ]
  })

  it("gives an item the same room in both kinds of record", () => {
    for (const bytes of [1, 7, 100]) {
      const items = [new Uint8Array(bytes)]
      const expected = recordHeadBytes + itemHeadBytes + bytes
      assert.strictEqual(encode({ type: "items", items }).length, expected)
      assert.strictEqual(encode({ type: "commands", isFirst: true, isLast: true, items }).length, expected)
    }
  })
})
