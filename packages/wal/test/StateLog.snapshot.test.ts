/** Snapshots of a state in its log: when they are written, what they make dispensable, and crashes in between. */
import { assert, describe, it } from "@effect/vitest"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import { Cause, Effect, Fiber, Result, Stream } from "effect"
import type { AppendLog } from "../src/AppendLog.ts"
import { SnapshotMissing, StateRecordInvalid, WrongStateKind } from "../src/LogStateErrors.ts"
import * as StateRecordFormat from "../src/StateRecordFormat.ts"
import { openLog, type OpenOptions, openWords, segments, wordsOn } from "./support/words.ts"

type Log = AppendLog["Service"]

const numbers = (count: number, prefix = "") => Array.from({ length: count }, (_, i) => `${prefix}${i}`)

/** Short segments, and a snapshot whenever the log behind the last one is twice as large as what lives. */
const short: OpenOptions = {
  log: { segmentBytes: 1000, maxRecordBytes: 200 },
  state: { snapshotMinBytes: 300, snapshotRatio: 2 }
}

const segmentsOn = (disk: MemoryDisk) => disk.files.filter((path) => segments.test(path))
const bytesOn = (disk: MemoryDisk) =>
  segmentsOn(disk).reduce((sum, path) => sum + (disk.readFile(path)?.length ?? 0), 0)

/** The types of all records, from the first kept one on. */
const recordTypes = (log: Log) =>
  Effect.map(
    Stream.runCollect(log.stream()),
    (records) =>
      records.map(({ payload }) =>
        Result.match(StateRecordFormat.decode(payload), {
          onSuccess: ({ type }) => type,
          onFailure: ({ message }) => message
        })
      )
  )

/** Goes on when nothing moves any more but the clock. */
const settled = Effect.forEach(Array.from({ length: 300 }), () => Effect.yieldNow, { discard: true })

describe("StateLog, snapshots", () => {
  it.effect("keep the log in proportion to what lives in it", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const expected: Array<string> = []
      yield* Effect.scoped(Effect.gen(function*() {
        const { add, log } = yield* openWords(disk, short)
        for (let round = 0; round < 30; round++) {
          yield* Effect.forEach(numbers(40, `${round}.`), (word) => add(word), { concurrency: 10 })
          if (round % 3 === 2) yield* add("forget")
          expected.splice(0, round % 3 === 2 ? expected.length : 0)
          if (round % 3 !== 2) expected.push(...numbers(40, `${round}.`))
        }
        yield* settled
        assert.isAbove(log.watermarks().durable, 40_000)
        assert.isAbove(log.watermarks().firstKept, 30_000)
        assert.isBelow(bytesOn(disk), 12_000)
      }))
      assert.deepStrictEqual(yield* wordsOn(disk, short), expected)
    }))

  it.effect("are written next to commands that go on", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const options: OpenOptions = { state: { snapshotMinBytes: 100_000, snapshotRatio: 0.5 } }
      const large = numbers(30).map((word) => word.padEnd(20_000, "."))
      yield* Effect.scoped(Effect.gen(function*() {
        const { add, log, state } = yield* openWords(disk, options)
        yield* Effect.forEach(large, (word) => add(word), { concurrency: 4, discard: true })
        yield* Effect.forEach(numbers(300), (word) => add(word), { concurrency: 3, discard: true })
        yield* settled
        const types = yield* recordTypes(log)
        const begin = types.lastIndexOf("begin")
        const during = types.slice(begin, types.indexOf("end", begin))
        assert.isAbove(during.filter((type) => type === "items").length, 3)
        assert.isAbove(during.filter((type) => type === "commands").length, 3)
        assert.strictEqual(state.words.length, 330)
        disk.crash("lost")
        assert.deepStrictEqual(yield* wordsOn(disk, options), state.words)
      }))
    }))

  it.effect("leave one of the two states, whenever the power fails", () =>
    Effect.gen(function*() {
      let states = 0
      const kinds = { withOpenSnapshot: 0, withRestInFront: 0, truncated: 0 }
      for (const seed of [1, 2]) {
        const disk = MemoryDisk.make({ async: { seed, maxTurns: 2 } })
        const options: OpenOptions = { ...short, log: { segmentBytes: 400, maxRecordBytes: 80, maxBatchBytes: 60 } }
        yield* Effect.scoped(Effect.flatMap(openWords(disk, options), ({ add }) => add("first")))
        const trace = disk.record<number>()
        const added: Array<string> = ["first"]
        yield* Effect.scoped(Effect.gen(function*() {
          const { stateLog } = yield* openWords(disk, options)
          const writer = Effect.fnUntraced(function*(number: number) {
            for (let i = 0; i < 12; i++) {
              const word = i === 7 && number === 1 ? "forget" : `${number}.${i}`.padEnd(3 * number + i, "-")
              const position = yield* stateLog.transact(() => {
                const position = added.push(word)
                return { type: "commit", commands: [word], answer: () => position }
              })
              trace.mark(position)
            }
          })
          yield* Effect.forEach([0, 1, 2], writer, { concurrency: "unbounded" })
        }))
        trace.stop()
        const stateAfter = (count: number) => {
          const words = added.slice(0, count)
          return words.slice(words.lastIndexOf("forget") + 1)
        }
        for (const state of trace.crashStates({ seed, perStep: 1, steps: (step) => step % 7 === 0 })) {
          states++
          const acknowledged = Math.max(1, ...state.marks)
          yield* checkRecovery(state.disk, options, (found) => {
            for (let count = added.length; count >= acknowledged; count--) {
              if (found.join() === stateAfter(count).join()) return true
            }
            return false
          }, kinds).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${state.label}: ${Cause.pretty(cause)}`))))
        }
      }
      assert.isAbove(states, 300)
      assert.isAbove(kinds.withOpenSnapshot, 10)
      assert.isAbove(kinds.withRestInFront, 10)
      assert.isAbove(kinds.truncated, 100)
    }))

  it.effect("are tried again when a segment cannot be removed, and truncation is finished when the log is opened", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const stuck = disk.inject({
        operation: "remove",
        path: segments,
        fault: { kind: "error", code: "EACCES" },
        times: Number.POSITIVE_INFINITY
      })
      yield* Effect.scoped(Effect.gen(function*() {
        const { add, state } = yield* openWords(disk, short)
        for (let round = 0; round < 6; round++) {
          yield* Effect.forEach(numbers(40), (word) => add(word), { concurrency: 10 })
          yield* add("forget")
        }
        yield* settled
        assert.isAbove(stuck.hits, 1)
        assert.deepStrictEqual(state.words, [])
        yield* add("last")
      }))
      const before = segmentsOn(disk).length
      assert.isAbove(before, 6)
      stuck.remove()
      assert.deepStrictEqual(yield* wordsOn(disk, short), ["last"])
      assert.isBelow(segmentsOn(disk).length, 5)
    }))

  it.effect("are given up by closing, and written by the next process", () =>
    Effect.gen(function*() {
      const disk = MemoryDisk.make()
      const options: OpenOptions = { state: { snapshotMinBytes: 1000, snapshotRatio: 0.1 } }
      const large = numbers(20).map((word) => word.padEnd(60_000, "."))
      yield* Effect.scoped(Effect.gen(function*() {
        const { add, close } = yield* openWords(disk, { state: { snapshotMinBytes: 1e9 } })
        yield* Effect.forEach(large, (word) => add(word), { concurrency: "unbounded", discard: true })
        yield* close
        const again = yield* openWords(disk, { ...options, log: { maxQueuedBytes: 100_000, maxBatchBytes: 70_000 } })
        yield* again.add("one")
        yield* again.close
        const { close: closeLog, log } = yield* openLog(disk)
        const types = yield* recordTypes(log)
        assert.isAbove(types.lastIndexOf("begin"), types.lastIndexOf("end"), "a snapshot without its end")
        yield* closeLog
      }))
      yield* Effect.scoped(Effect.gen(function*() {
        const { log, state } = yield* openWords(disk, options)
        assert.deepStrictEqual(state.words, [...large, "one"])
        yield* settled
        const types = yield* recordTypes(log)
        assert.isAbove(types.lastIndexOf("end"), types.lastIndexOf("begin"), "a snapshot with its end")
      }))
      assert.deepStrictEqual(yield* wordsOn(disk, options), [...large, "one"])
    }))

  it.effect("GC-07 do not keep anybody waiting when the log is poisoned in the middle of one", () =>
    Effect.gen(function*() {
      for (let skip = 0; skip < 12; skip++) {
        const disk = MemoryDisk.make()
        const acknowledged: Array<string> = []
        yield* Effect.scoped(Effect.gen(function*() {
          const { add } = yield* openWords(disk, short)
          disk.inject({ operation: "syncData", path: segments, skip, fault: { kind: "lostSync" } })
          const fiber = yield* Effect.forkChild(
            Effect.forEach(
              numbers(400),
              (word) => Effect.tap(add(word), () => Effect.sync(() => acknowledged.push(word)))
            )
          )
          yield* Fiber.await(fiber)
        }))
        disk.crash("lost")
        const found = yield* wordsOn(disk, short)
        assert.deepStrictEqual(found.slice(0, acknowledged.length), acknowledged)
        assert.isAtMost(found.length, acknowledged.length + 1)
      }
    }))

  describe("refuses", () => {
    const begin = StateRecordFormat.encode({ type: "begin", kind: "WORD" })
    const end = (itemsRecords: number) => StateRecordFormat.encode({ type: "end", itemsRecords })
    const items = StateRecordFormat.encode({ type: "items", items: [new Uint8Array([97])] })
    const command = (isFirst: boolean, isLast: boolean) =>
      StateRecordFormat.encode({ type: "commands", isFirst, isLast, items: [new Uint8Array([98])] })
    const foreign = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8, 9])

    /** Opens a log that has these records, and finds nothing changed when that is refused. */
    const openOver = (records: ReadonlyArray<Uint8Array>) =>
      Effect.gen(function*() {
        const disk = MemoryDisk.make()
        yield* Effect.scoped(
          Effect.flatMap(openLog(disk), ({ log }) => Effect.forEach(records, (record) => log.append(record)))
        )
        const before = contents(disk)
        const result = yield* Effect.result(wordsOn(disk))
        if (Result.isFailure(result)) assert.deepStrictEqual(contents(disk), before)
        return result
      })
    const contents = (disk: MemoryDisk) =>
      segmentsOn(disk).map((path) => Buffer.from(disk.readFile(path) ?? []).toString("base64").replace(/A+=*$/, ""))
    const refusal = (...records: ReadonlyArray<Uint8Array>) =>
      Effect.flip(Effect.flatMap(openOver(records), Effect.fromResult))
    const accepted = (...records: ReadonlyArray<Uint8Array>) => Effect.flatMap(openOver(records), Effect.fromResult)

    it.effect("a state of another kind", () =>
      Effect.gen(function*() {
        const error = yield* refusal(StateRecordFormat.encode({ type: "begin", kind: "KVST" }), end(0))
        assert.isTrue(error instanceof WrongStateKind && error.found === "KVST")
      }))

    it.effect("records of something else", () =>
      Effect.gen(function*() {
        const error = yield* refusal(foreign)
        assert.isTrue(error instanceof WrongStateKind && error.found === undefined)
        const later = yield* refusal(begin, end(0), foreign)
        assert.isTrue(later instanceof StateRecordInvalid && later.issue.code === "UnknownTag")
      }))

    it.effect("records of a newer version", () =>
      Effect.gen(function*() {
        const newer = begin.slice()
        newer[1] = 2
        const error = yield* refusal(begin, end(0), newer)
        assert.isTrue(error instanceof StateRecordInvalid && error.issue.code === "UnsupportedVersion")
      }))

    it.effect("commands without the snapshot that they start from", () =>
      Effect.gen(function*() {
        assert.isTrue((yield* refusal(command(true, true))) instanceof SnapshotMissing)
        assert.isTrue(
          (yield* refusal(command(true, true), begin, items, command(true, true))) instanceof SnapshotMissing
        )
      }))

    it.effect("a snapshot that is not whole, and records out of place", () =>
      Effect.gen(function*() {
        const codeOf = (error: unknown) => error instanceof StateRecordInvalid ? error.issue.code : error
        assert.strictEqual(codeOf(yield* refusal(begin, items, end(2))), "ItemsMissing")
        assert.strictEqual(codeOf(yield* refusal(begin, end(0), items)), "OutOfPlace")
        assert.strictEqual(codeOf(yield* refusal(begin, end(0), end(0))), "OutOfPlace")
        assert.strictEqual(codeOf(yield* refusal(begin, end(0), command(false, true))), "OutOfPlace")
        assert.strictEqual(
          codeOf(yield* refusal(begin, end(0), command(true, false), begin, end(0), command(false, true))),
          "OutOfPlace"
        )
      }))

    it.effect("nothing that crashes and truncations leave", () =>
      Effect.gen(function*() {
        // The rest of something older in front: halves of a snapshot and of a batch.
        assert.deepStrictEqual(
          yield* accepted(items, end(3), command(false, true), command(true, true), begin, items, end(1)),
          ["a"]
        )
        // Commands next to a snapshot come behind its items.
        assert.deepStrictEqual(yield* accepted(begin, command(true, true), items, command(true, true), end(1)), [
          "a",
          "b",
          "b"
        ])
        // A second snapshot says what is known.
        assert.deepStrictEqual(yield* accepted(begin, items, end(1), begin, command(true, true), items, end(1)), [
          "a",
          "b"
        ])
        // A snapshot and a batch that a crash has cut off, and what the next process wrote behind them.
        assert.deepStrictEqual(
          yield* accepted(begin, items, end(1), begin, items, command(true, false), command(true, true)),
          ["a", "b"]
        )
        assert.deepStrictEqual(yield* accepted(begin, items, begin, items, items, end(2)), ["a", "a"])
        assert.deepStrictEqual(
          yield* accepted(begin, end(0), command(true, false), begin, end(0), command(true, true)),
          ["b"]
        )
        // A batch of several records.
        assert.deepStrictEqual(
          yield* accepted(begin, end(0), command(true, false), command(false, false), command(false, true)),
          ["b", "b", "b"]
        )
      }))
  })
})

/** Recovers twice, goes on, crashes again and recovers: what is found is right, stays, and is added to. */
const checkRecovery = Effect.fnUntraced(function*(
  disk: MemoryDisk,
  options: OpenOptions,
  isRight: (words: ReadonlyArray<string>) => boolean,
  kinds: { withOpenSnapshot: number; withRestInFront: number; truncated: number }
) {
  yield* Effect.scoped(Effect.gen(function*() {
    const { close, log } = yield* openLog(disk, options.log)
    const types = yield* recordTypes(log)
    if (types.lastIndexOf("begin") > types.lastIndexOf("end")) kinds.withOpenSnapshot++
    if (types[0] !== "begin") kinds.withRestInFront++
    if (log.watermarks().firstKept > 0) kinds.truncated++
    yield* close
  }))
  const found = yield* wordsOn(disk, options)
  assert.isTrue(isRight(found), `found ${found.join()}`)
  disk.crash("lost")
  assert.deepStrictEqual(yield* wordsOn(disk, options), found, "opened again")
  yield* Effect.scoped(Effect.flatMap(openWords(disk, options), ({ add }) => add("z".repeat(60))))
  disk.crash("lost")
  assert.deepStrictEqual(yield* wordsOn(disk, options), [...found, "z".repeat(60)], "gone on")
})
