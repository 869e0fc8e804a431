/** The marker stream under a group commit: what has to be durable before a marker is written, and when it is not. */
import { assert, describe, it } from "@effect/vitest"
import { toLsn } from "@tidemark/core/Scalars"
import { VfsError } from "@tidemark/platform/VfsError"
import { Cause, Deferred, Effect, Fiber } from "effect"
import * as GroupCommit from "../src/GroupCommit.ts"
import { makeMarkerSink } from "../src/internal/markerSink.ts"
import { outcomeOf, settle } from "./support/engine.ts"
import {
  capsuleNumber,
  chainOf,
  diskOf,
  filesOf,
  open,
  recordBytes,
  scan,
  segmentFile,
  seqOf,
  withVfs
} from "./support/markers.ts"

/** An engine over a stream that has five records already. */
const start = (barrier: (from: bigint, count: number) => Effect.Effect<void, VfsError>) => {
  const disk = diskOf(filesOf(chainOf([{ start: 0, commits: 4 }])))
  const told: Array<bigint> = []
  const use = <A, E>(
    body: (parts: {
      readonly engine: GroupCommit.GroupCommit
      readonly commit: (mode?: GroupCommit.CommitMode) => Effect.Effect<bigint, GroupCommit.LogEnded>
      readonly sink: ReturnType<typeof makeMarkerSink>
    }) => Effect.Effect<A, E>
  ) =>
    withVfs(disk, (vfs) =>
      Effect.gen(function*() {
        const files = yield* open(vfs)
        const sink = makeMarkerSink({
          name: "markers",
          files,
          barrier,
          onDurable: (through) => {
            told.push(through)
          }
        })
        const engine = yield* GroupCommit.make(sink)
        const commit = (mode: GroupCommit.CommitMode = "durable") =>
          Effect.suspend(() => {
            const lsn = engine.enqueueUnsafe(recordBytes, (target, view, offset) => {
              files.encodeNext(capsuleNumber(files.next()), undefined, target, view, offset)
            })
            return Effect.as(engine.commitAtLeast(lsn, mode), sink.sequenceBefore(lsn))
          }).pipe(Effect.catchTag("LsnNotReserved", Effect.die))
        return yield* body({ engine, commit, sink })
      }))
  return { disk, told, use }
}

const fork = <A, E>(effect: Effect.Effect<A, E>) => Effect.forkChild(effect, { startImmediately: true })
const segmentBytes = (records: number) => 36 + records * recordBytes

describe("MarkerSink", () => {
  it.effect("positions are sequences, counted from the one at which the stream was opened", () => {
    const { told, use } = start(() => Effect.void)
    return use(({ commit, engine, sink }) =>
      Effect.gen(function*() {
        assert.strictEqual(sink.sequenceBefore(toLsn(0)), 4n)
        assert.strictEqual(yield* commit(), 5n)
        assert.strictEqual(yield* commit(), 6n)
        assert.strictEqual(engine.watermarks().durable, 2 * recordBytes)
        assert.strictEqual(sink.positionBehind(seqOf(6)), 2 * recordBytes)
        assert.strictEqual(sink.positionBehind(seqOf(4)), 0)
        assert.deepStrictEqual(told, [5n, 6n])
      })
    )
  })

  it.effect("CO-09 CO-10 no marker is written before the barrier of its batch is through; it is told which", () =>
    Effect.gen(function*() {
      const gate = Deferred.makeUnsafe<void>()
      const batches: Array<readonly [bigint, number]> = []
      const { disk, use } = start((from, count) =>
        Effect.suspend(() => {
          batches.push([from, count])
          return Deferred.await(gate)
        })
      )
      yield* use(({ commit }) =>
        Effect.gen(function*() {
          const fibers = [yield* fork(commit()), yield* fork(commit()), yield* fork(commit("written"))]
          yield* settle
          assert.deepStrictEqual(batches, [[5n, 3]])
          assert.strictEqual(disk.readFile(segmentFile(0))?.length, segmentBytes(5))
          const later = [yield* fork(commit()), yield* fork(commit())]
          yield* Deferred.succeed(gate, undefined)
          assert.deepStrictEqual(yield* Effect.forEach([...fibers, ...later], Fiber.join), [5n, 6n, 7n, 8n, 9n])
          assert.deepStrictEqual(batches, [[5n, 3], [8n, 2]])
        })
      )
      assert.strictEqual((yield* scan(disk)).last?.seq, 9n)
    }))

  it.effect("CO-10 a batch that is only written stands behind its barrier too", () =>
    Effect.gen(function*() {
      const counts: Array<number> = []
      const { disk, use } = start((_, count) => Effect.sync(() => counts.push(count)))
      yield* use(({ commit, engine }) =>
        Effect.gen(function*() {
          yield* commit("written")
          assert.deepStrictEqual(counts, [1])
          assert.isAbove(disk.unsynced.length, 0)
          yield* engine.flushNow
          assert.deepStrictEqual([disk.unsynced, counts], [[], [1]])
        })
      )
    }))

  it.effect("GC-07 CO-10 a barrier that fails poisons: no marker of its batch, nor of a later one, is written", () =>
    Effect.gen(function*() {
      const error = new VfsError({ operation: "syncData", path: "capsule", code: "EIO", cause: undefined })
      let calls = 0
      const { disk, told, use } = start(() => Effect.suspend(() => ++calls === 2 ? Effect.fail(error) : Effect.void))
      yield* use(({ commit }) =>
        Effect.gen(function*() {
          assert.strictEqual(yield* commit(), 5n)
          assert.strictEqual(yield* outcomeOf(commit()), "WalPoisoned")
        })
      )
      assert.deepStrictEqual([calls, told], [2, [5n]])
      assert.strictEqual(disk.readFile(segmentFile(0))?.length, segmentBytes(6))
    }))

  it.effect("GC-08 a log that is poisoned while its barrier runs writes nothing behind it", () =>
    Effect.gen(function*() {
      const gate = Deferred.makeUnsafe<void>()
      const { disk, use } = start(() => Deferred.await(gate))
      yield* use(({ commit, engine }) =>
        Effect.gen(function*() {
          const writer = yield* fork(outcomeOf(commit()))
          yield* settle
          const trace = disk.record()
          engine.poison(Cause.die("the state of the owner is broken"))
          assert.strictEqual(yield* Fiber.join(writer), "WalPoisoned")
          yield* Deferred.succeed(gate, undefined)
          yield* settle
          trace.stop()
          assert.deepStrictEqual(trace.steps, [])
        })
      )
      assert.strictEqual(disk.readFile(segmentFile(0))?.length, segmentBytes(5))
    }))
})
