/** Coordinators that end with transactions open, and those that come after them: over one header, over one log. */
import { assert, describe, it } from "@effect/vitest"
import * as CompatCoordinator from "@tidemark/coordinator/CompatCoordinator"
import * as CoordinatorLease from "@tidemark/coordinator/CoordinatorLease"
import * as SharedHeader from "@tidemark/coordinator/SharedHeader"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { CommitLog } from "@tidemark/wal/CommitLog"
import { Cause, Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import {
  commitPages,
  filled,
  forkNow,
  grow,
  makeDisk,
  makeRequest,
  openMemory,
  outcomeOf,
  page,
  pageSize,
  published,
  readNow,
  settle,
  valueOf
} from "./support/database.ts"
import { LogUnderTest, nativeLog, test } from "./support/logs.ts"
import { RecordingLog } from "./support/recordingLog.ts"

/** What outlives coordinators: the log, its lease, its header. */
const makeGround = Effect.fnUntraced(function*(log: RecordingLog) {
  const layer = CoordinatorLease.layerMemory({ name: "recording", registry: CoordinatorLease.makeLeaseRegistry() })
    .pipe(
      Layer.provideMerge(SharedHeader.layerMemory({ pageSize })),
      Layer.provideMerge(log.layer),
      Layer.provideMerge(MemoryVfs.layer)
    )
  yield* Effect.addFinalizer(() => Effect.sync(() => log.poison()))
  const ground = yield* Layer.build(layer)
  const open = Effect.gen(function*() {
    const scope = yield* Scope.fork(yield* Effect.scope)
    const context = yield* Layer.buildWithScope(Layer.fresh(CompatCoordinator.layerNoDeps), scope).pipe(
      Effect.provide(ground),
      Effect.onError(() => Scope.close(scope, Exit.void))
    )
    return {
      coordinator: Context.get(context, CompatCoordinator.CompatCoordinator),
      vfs: Context.get(ground, Vfs),
      log: Context.get(ground, CommitLog),
      close: Scope.close(scope, Exit.void)
    }
  })
  return { open, header: Context.get(ground, SharedHeader.SharedHeader) }
})

const commitOne = Effect.fnUntraced(function*(
  log: RecordingLog,
  opened: Parameters<typeof commitPages>[0],
  numbers: ReadonlyArray<number>
) {
  const fiber = yield* forkNow(Effect.exit(commitPages(opened, numbers)))
  log.complete()
  return yield* Effect.flatten(Fiber.join(fiber))
})

describe("a coordinator that ends", () => {
  it.effect("CO-12 takes its serialized transaction along: the next one, and other processes, are not kept out", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { header, open } = yield* makeGround(log)
      const first = yield* open
      const hold = yield* first.coordinator.beginSerialized()
      assert.strictEqual(header.serialized.holder()?.id, hold.token.id)
      yield* first.close
      assert.isUndefined(header.serialized.holder())
      const second = yield* open
      assert.strictEqual((yield* commitOne(log, second, [1])).commitSeq, 1n)
      const next = yield* second.coordinator.beginSerialized()
      // What the first one has left behind ends nothing of the second's.
      hold.end()
      assert.strictEqual(header.serialized.holder()?.id, next.token.id)
      next.end()
    }))

  it.effect("CO-12 leaves the header alone afterwards: who waited for the turn gets it, and can commit nothing", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { header, open } = yield* makeGround(log)
      const { close, coordinator, vfs } = yield* open
      const hold = yield* coordinator.beginSerialized()
      const waiting = yield* forkNow(coordinator.beginSerialized())
      yield* settle
      yield* close
      hold.end()
      const late = yield* Fiber.join(waiting)
      assert.isUndefined(header.serialized.holder())
      const refused = outcomeOf(commitPages({ coordinator, vfs }, [1], { token: late.token }))
      assert.strictEqual(yield* refused, "LogClosed")
      late.end()
      const ids = [coordinator.begin(), coordinator.begin()].map(({ token }) => token.id)
      assert.strictEqual(new Set([hold.token.id, late.token.id, ...ids]).size, 4)
    }))

  test.overEveryLog("CO-12 PG-01 transactions that outlive their database end without a defect, serialized or not", () =>
    Effect.gen(function*() {
      const database = yield* openMemory(makeDisk())
      yield* grow(database, 3)
      const scope = yield* Scope.make()
      const begin = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) => Scope.provide(effect, scope)
      const concurrent = yield* begin(database.pager.begin())
      const serialized = yield* begin(database.pager.beginSerialized())
      yield* concurrent.write(page(2), filled(1))
      yield* serialized.write(page(2), filled(2))
      yield* database.close
      assert.strictEqual(yield* outcomeOf(concurrent.commit), "LogClosed")
      assert.strictEqual(yield* outcomeOf(serialized.commit), "LogClosed")
      assert.isTrue(Exit.isSuccess(yield* Effect.exit(Scope.close(scope, Exit.void))))
    }))
})

describe("a coordinator that follows another one over the same log", () => {
  it.effect("CO-02 CO-15 goes on after the last commit, and refuses who began before", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const { header, open } = yield* makeGround(log)
      const first = yield* open
      const stale = yield* makeRequest(first, [2])
      yield* commitOne(log, first, [1])
      yield* commitOne(log, first, [2])
      yield* first.close
      const second = yield* open
      assert.strictEqual((yield* commitOne(log, second, [3])).commitSeq, 3n)
      assert.strictEqual(header.snapshotUnsafe()?.commitSeq, 3n)
      const refused = yield* Effect.flip(second.coordinator.commit(stale))
      assert.deepInclude(refused, { _tag: "Conflict", conflictingSeq: toCommitSeq(2n), reason: "floor" })
      assert.strictEqual(yield* outcomeOf(commitPages(first, [4])), "LogClosed")
    }))
})

describe("authority", () => {
  it.effect("SHM-01 a header for pages of another size is refused before anything is published in it", () =>
    Effect.gen(function*() {
      const log = new RecordingLog()
      const header = yield* Layer.build(SharedHeader.layerMemory({ pageSize: PageSize.make(4096) }))
      const build = Layer.build(
        Layer.fresh(CompatCoordinator.layerNoDeps).pipe(
          Layer.provide(CoordinatorLease.layerMemory({ name: "a", registry: CoordinatorLease.makeLeaseRegistry() })),
          Layer.provide(log.layer)
        )
      )
      const refused = yield* Effect.flip(Effect.provide(build, header))
      assert.deepInclude(refused, { _tag: "ShmPageSizeMismatch", found: PageSize.make(4096), expected: pageSize })
      assert.isUndefined(Context.get(header, SharedHeader.SharedHeader).snapshotUnsafe())
    }))
})

describe("a native commit whose pages were spilled", () => {
  it.effect("CO-11 is SpillCorrupt for itself alone when a page is damaged while its capsule is made", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const database = yield* openMemory(disk)
      yield* grow(database, 5)
      const before = published(database)
      // One read to verify, and one to write: the second one is damaged.
      const fault = disk.inject({
        operation: "read",
        path: /\.spill$/,
        skip: 1,
        fault: { kind: "flippedBit", position: 600, bit: 3 }
      })
      const exit = yield* Effect.exit(commitPages(database, [2, 3, 4], { spillThresholdBytes: 0 }))
      assert.strictEqual(fault.hits, 1)
      assert.isTrue(Exit.isFailure(exit) && !Cause.hasDies(exit.cause), String(exit))
      assert.strictEqual(yield* outcomeOf(exit), "SpillCorrupt")
      assert.strictEqual(published(database), before)
      yield* commitPages(database, [2], { value: 7 })
      assert.strictEqual(valueOf(yield* readNow(database, 2)), 7)
      assert.deepStrictEqual(
        disk.files.filter((path) => path.includes("/capsules/")).length,
        2
      )
    }).pipe(Effect.provideService(LogUnderTest, nativeLog)))
})
