import { describe } from "@effect/vitest"
import fc from "fast-check"
import {
  decode,
  encode,
  type QueueCommand,
  QueueCommandFromBytes,
  type QueueElement
} from "../src/PersistedQueueFormat.ts"
import { anyText, anyTime, formatContract, tagged } from "./support/formatContract.ts"

const target = { queue: anyText, id: anyText }

const element = fc.record({
  ...target,
  isCustomId: fc.boolean(),
  state: fc.constantFrom<QueueElement["state"]>("pending", "processing", "completed", "failed"),
  attempts: fc.nat(0xffffffff),
  maxAttempts: anyTime,
  visibleAt: anyTime,
  changedAt: anyTime,
  payload: fc.option(anyText, { nil: undefined })
})

describe("PersistedQueueFormat", () => {
  formatContract<QueueCommand>({
    encode,
    decode,
    codec: QueueCommandFromBytes,
    values: fc.oneof(
      tagged("put", fc.record({ element })),
      tagged("claim", fc.record({ ...target, maxAttempts: anyTime })),
      tagged("complete", fc.record({ ...target, at: anyTime })),
      tagged("fail", fc.record({ ...target, at: anyTime })),
      tagged("retry", fc.record({ ...target, visibleAt: anyTime })),
      tagged("release", fc.record(target)),
      tagged("cleanup", fc.record({ completedUpTo: anyTime, failedUpTo: anyTime }))
    ),
    examples: [
      [
        {
          type: "put",
          element: {
            queue: "q",
            id: "i",
            isCustomId: true,
            state: "failed",
            attempts: 2,
            maxAttempts: 10,
            visibleAt: 1,
            changedAt: -2,
            payload: "1"
          }
        },
        "01 03 03 02000000 0000000000002440 000000000000f03f 00000000000000c0 01 01000000 71 01 01000000 69 01 01000000 31"
      ],
      [
        {
          type: "put",
          element: {
            queue: "q",
            id: "i",
            isCustomId: false,
            state: "pending",
            attempts: 0,
            maxAttempts: Number.POSITIVE_INFINITY,
            visibleAt: 0,
            changedAt: 0,
            payload: undefined
          }
        },
        "01 00 00 00000000 000000000000f07f 0000000000000000 0000000000000000 01 01000000 71 01 01000000 69"
      ],
      [{ type: "claim", queue: "q", id: "i", maxAttempts: 10 }, "02 0000000000002440 01 01000000 71 01 01000000 69"],
      [{ type: "complete", queue: "q", id: "i", at: 1 }, "03 000000000000f03f 01 01000000 71 01 01000000 69"],
      [{ type: "fail", queue: "q", id: "i", at: 1 }, "04 000000000000f03f 01 01000000 71 01 01000000 69"],
      [{ type: "retry", queue: "q", id: "i", visibleAt: 1 }, "05 000000000000f03f 01 01000000 71 01 01000000 69"],
      [{ type: "release", queue: "q", id: "i" }, "06 01 01000000 71 01 01000000 69"],
      [
        { type: "cleanup", completedUpTo: 1, failedUpTo: Number.NEGATIVE_INFINITY },
        "07 000000000000f03f 000000000000f0ff"
      ]
    ],
    refusals: [
      ["", "TooShort", 0],
      ["08", "UnknownTag", 0],
      ["01 04 00", "UnknownState", 1],
      ["01 00 04", "BadFlags", 2],
      ["03 000000000000f87f", "OutOfRange", 1],
      ["06 01 01000000 71 01 01000000", "TooShort", 12],
      ["07 000000000000f03f 000000000000f0ff 00", "TooLong", 17]
    ]
  })
})
