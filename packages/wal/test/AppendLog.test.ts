/** The append log as its users see it: append, wait, read back, reopen. */
import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as Effect from "effect/Effect"
import { bytesOf, openMemory, readAll, textOf, textsOf } from "./support/appendLog.ts"

describe("AppendLog", () => {
  it.effect("LOG-01 one writer, round trip, reopened", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const first = yield* openMemory(disk)
      assert.isTrue(first.log.recovery.isNew)
      const one = yield* first.log.append(bytesOf("one"))
      const two = yield* first.log.append(bytesOf("two, which is longer"))
      assert.strictEqual(one.start, 0)
      // Head 8, payload padded to 8, mark of the batch 16.
      assert.deepStrictEqual([one.end, two.start, two.end], [16, 32, 64])
      const before = yield* readAll(first.log)
      assert.deepStrictEqual(textsOf(before), ["one", "two, which is longer"])
      yield* first.close

      const second = yield* openMemory(disk)
      assert.isFalse(second.log.recovery.isNew)
      assert.strictEqual(second.log.recovery.droppedBytes, 0)
      assert.deepStrictEqual(yield* readAll(second.log), before)
      assert.deepStrictEqual(before.map(({ end, start }) => ({ end, start })), [one, two])
      assert.strictEqual(textOf((yield* second.log.read(two.start)).payload), "two, which is longer")
      const three = yield* second.log.append(bytesOf("three"))
      assert.strictEqual(three.start, two.end + 16)
      assert.deepStrictEqual(textsOf(yield* readAll(second.log, two.end)), ["three"])
    }))
})
