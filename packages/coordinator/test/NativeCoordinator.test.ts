/** The native coordinator: publishing capsules, what is durable when, and what it refuses. */
import { assert, describe, it } from "@effect/vitest"
import type { CommitProposal, TransactionHold } from "@tidemark/coordinator/Coordination"
import * as NativeCoordinator from "@tidemark/coordinator/NativeCoordinator"
import type { PublishRequest } from "@tidemark/coordinator/NativeCoordinator"
import { objectIdToHex, type PageNumber, toCommitSeq } from "@tidemark/core/Scalars"
import type { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import * as CapsuleFormat from "@tidemark/wal/CapsuleFormat"
import { CapsuleStore } from "@tidemark/wal/CapsuleStore"
import * as NativeLog from "@tidemark/wal/NativeLog"
import { examineNative } from "@tidemark/wal/NativeStartUp"
import { Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import {
  filled,
  forkNow,
  isWaiting,
  makeDisk,
  memoryPath,
  outcomeOf,
  page,
  pages,
  pageSize
} from "./support/database.ts"

/** A process with the database open. */
const openNative = Effect.fnUntraced(function*(disk: MemoryDisk) {
  const scope = yield* Scope.fork(yield* Effect.scope)
  const layer = NativeCoordinator.layer.pipe(
    Layer.provideMerge(NativeLog.layer({ database: memoryPath, create: { pageSize }, checkpointOnClose: false })),
    Layer.provideMerge(MemoryVfs.layerDisk(disk))
  )
  const context = yield* Layer.buildWithScope(Layer.fresh(layer), scope)
  const capsules = Context.get(context, CapsuleStore)
  const native = Context.get(context, NativeCoordinator.NativeCoordinator)

  /** Stores what a transaction wrote: the same value on each page. */
  const store = Effect.fnUntraced(function*(
    hold: TransactionHold,
    numbers: ReadonlyArray<PageNumber>,
    value: number,
    proposal: Partial<CommitProposal> = {}
  ) {
    const { bytes, digest, id } = CapsuleFormat.encode({
      token: hold.token,
      beginSeq: hold.snapshot.high,
      databasePages: 0,
      pageSize,
      pages: numbers
    }, () => filled(value))
    yield* capsules.put({ bytes, id })
    const { snapshot, token } = hold
    return { token, snapshot, capsule: id, capsuleDigest: digest, pages: numbers, ...proposal } satisfies PublishRequest
  })

  const publishNow = (numbers: ReadonlyArray<number>, value: number) =>
    Effect.suspend(() => {
      const hold = native.begin()
      return Effect.ensuring(
        Effect.flatMap(store(hold, pages(...numbers), value), native.publish),
        Effect.sync(() => hold.end())
      )
    })

  const { commits, markers } = Context.get(context, NativeLog.NativeLog)
  return { native, log: commits, markers, store, publishNow, close: Scope.close(scope, Exit.void) }
})

const isMarkers = (path: string) => /\/markers\/segment-\d{6}\.log$/.test(path)
const isCapsule = (path: string) => /\/capsules\/[0-9a-f]{32}$/.test(path)

describe("NativeCoordinator", () => {
  it.effect("CO-09 answers a sequence and the id of a marker that is on the disk; a batch has two barriers", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const opened = yield* openNative(disk)
      // The first batch also makes directories, and says in the database where its commits are.
      yield* opened.publishNow([1, 2, 3, 4], 1)
      const holds = [2, 3, 4].map(() => opened.native.begin())
      const requests = yield* Effect.forEach(holds, (hold, i) => opened.store(hold, pages(i + 2), 20 + i))
      const trace = disk.record()
      const answers = yield* Effect.forEach(requests, opened.native.publish, { concurrency: "unbounded" })
      trace.stop()
      const syncs = trace.steps.flatMap((step) => {
        if (step.kind === "syncDirectory") {
          return step.path.endsWith("/capsules")
            ? ["directory"]
            : ["another directory"]
        }
        if (step.kind !== "syncData" && step.kind !== "syncFull") return []
        return [isCapsule(step.path) ? "capsule" : isMarkers(step.path) ? "markers" : step.path]
      })
      assert.deepStrictEqual(syncs, ["capsule", "capsule", "capsule", "directory", "markers"])
      assert.deepStrictEqual(answers.map(({ commitSeq }) => commitSeq), [2n, 3n, 4n].map(toCommitSeq))

      // What the disk has without any luck, as the next process finds it.
      const again = yield* openNative(disk.afterCrash("lost"))
      for (const [i, { commitSeq, markerId }] of answers.entries()) {
        const marker = yield* again.markers.read(commitSeq)
        assert.strictEqual(objectIdToHex(markerId), marker === undefined ? "" : objectIdToHex(marker.id))
        const capsule = requests[i]?.capsule
        assert.strictEqual(capsule && objectIdToHex(capsule), marker && objectIdToHex(marker.capsule))
      }
      const reader = again.log.openReader()
      assert.deepStrictEqual([2, 3, 4].map((number) => reader.readSync(page(number))[0]), [20, 21, 22])
      reader.release()
    }))

  it("CO-09 a request has no bytes of pages in it", () => {
    // Complete by its type: a field more does not compile.
    const fields: Record<keyof PublishRequest, string> = {
      token: "24 bytes",
      snapshot: "two sequences",
      capsule: "16 bytes",
      capsuleDigest: "32 bytes",
      pages: "numbers",
      reads: "numbers",
      conflicts: "two flags",
      abortPolicy: "a word",
      databasePages: "a number"
    }
    assert.lengthOf(Object.keys(fields), 9)
  })

  it.effect("CO-10 RC-16 wherever a power loss comes, capsules without markers are left, never the other way round", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const opened = yield* openNative(disk)
      yield* opened.publishNow([1, 2, 3, 4], 1)
      const base = opened.log.published().commitSeq
      const trace = disk.record<bigint>()
      for (let round = 0; round < 4; round++) {
        yield* Effect.forEach(
          [2, 3],
          (number) => Effect.map(opened.publishNow([number], round + 10), ({ commitSeq }) => trace.mark(commitSeq)),
          {
            concurrency: "unbounded"
          }
        )
      }
      trace.stop()
      let orphans = 0
      for (let step = 0; step <= trace.steps.length; step++) {
        for (const choice of ["lost", "kept", step * 7 + 1, step * 7 + 2] as const) {
          const { disk: crashed, label, marks } = trace.crashAfter(step, choice)
          const acknowledged = marks.reduce((most, seq) => seq > most ? seq : most, BigInt(base))
          const found = yield* Effect.gen(function*() {
            return yield* examineNative(yield* Vfs, memoryPath)
          }).pipe(Effect.provide(MemoryVfs.layerDisk(crashed), { local: true }))
          assert.isUndefined(found.refusal, label)
          assert.notInclude(found.cases, "RC-15", label)
          assert.isFalse(found.tip < acknowledged, `${label}: ${found.tip} of ${acknowledged}`)
          if (found.cases.includes("RC-16")) orphans++
        }
      }
      const { marks } = trace.crashAfter(trace.steps.length, "lost")
      assert.strictEqual(marks.length, 8)
      assert.isAbove(orphans, 0, "some power losses come between the two barriers")
    }))

  it.effect("CO-10 CO-16 nothing is answered, nor visible, while a capsule or the markers are on their way", () =>
    Effect.gen(function*() {
      const disk = makeDisk()
      const opened = yield* openNative(disk)
      yield* opened.publishNow([1, 2], 1)
      for (const path of [isCapsule, isMarkers]) {
        const before = opened.log.published().commitSeq
        const held = disk.hold({ operation: "syncData", path })
        const publishing = yield* forkNow(opened.publishNow([2], 2))
        yield* held.reached
        assert.isTrue(isWaiting(publishing))
        assert.strictEqual(opened.native.begin().snapshot.high, before)
        assert.isUndefined(yield* markerAfter(disk, before))
        yield* held.release
        const { commitSeq } = yield* Fiber.join(publishing)
        assert.strictEqual(opened.native.begin().snapshot.high, commitSeq)
        assert.strictEqual(yield* markerAfter(disk, before), commitSeq)
      }
    }))

  it.effect("CO-02 pages that are not ascending are the caller's defect, and use up no sequence", () =>
    Effect.gen(function*() {
      const opened = yield* openNative(makeDisk())
      yield* opened.publishNow([1, 2, 3], 1)
      const hold = opened.native.begin()
      const request = yield* opened.store(hold, pages(2, 3), 2)
      for (const wrong of [pages(3, 2), pages(2, 2)]) {
        assert.strictEqual(yield* outcomeOf(opened.native.publish({ ...request, pages: wrong })), "defect")
      }
      assert.strictEqual((yield* opened.native.publish(request)).commitSeq, 2n)
    }))

  it.effect("CO-12 a serialized transaction excludes the others, also from asking before they write a capsule", () =>
    Effect.gen(function*() {
      const opened = yield* openNative(makeDisk())
      yield* opened.publishNow([1, 2], 1)
      const before = opened.native.begin()
      const request = yield* opened.store(before, pages(2), 3)
      const serialized = yield* opened.native.beginSerialized()
      assert.strictEqual(yield* outcomeOf(opened.native.publish(request)), "Busy")
      assert.strictEqual(opened.native.check(request, pages(2))?._tag, "Busy")
      const own = yield* opened.store(serialized, pages(2), 4)
      assert.isUndefined(opened.native.check(own, pages(2)))
      assert.strictEqual((yield* opened.native.publish(own)).commitSeq, 2n)
      serialized.end()
      const conflict = yield* Effect.flip(opened.native.publish(request))
      assert.deepInclude(conflict, { _tag: "Conflict", conflictingSeq: toCommitSeq(2n), pages: pages(2) })
      // The other way round: who enters waits for what is on its way.
      const late = opened.native.begin()
      const stored = yield* opened.store(late, pages(1), 5)
      const publishing = yield* forkNow(opened.native.publish(stored))
      const hold = yield* opened.native.beginSerialized()
      const { commitSeq } = yield* Fiber.join(publishing)
      assert.strictEqual(hold.snapshot.high, commitSeq)
      hold.end()
    }))

  it.effect("CO-13 a page that was read and has changed is refused, and so is a pivot, unless its caller has decided", () =>
    Effect.gen(function*() {
      const opened = yield* openNative(makeDisk())
      yield* opened.publishNow([1, 2, 3], 1)
      const hold = opened.native.begin()
      const reading = yield* opened.store(hold, pages(2), 2, { reads: pages(3) })
      yield* opened.publishNow([3], 9)
      for (
        const refused of [yield* Effect.flip(opened.native.publish(reading)), opened.native.check(reading, pages(2))]
      ) {
        assert.deepInclude(refused, { _tag: "SerializationFailure", reason: "read set", sqliteCode: 517 })
      }
      // A page that it also wrote is one of its writes.
      const pivot = yield* opened.store(opened.native.begin(), pages(2), 3, { conflicts: { in: true, out: true } })
      const refused = yield* Effect.flip(opened.native.publish(pivot))
      assert.deepInclude(refused, { _tag: "SerializationFailure", reason: "pivot", sqliteCode: 517 })
      assert.strictEqual((yield* opened.native.publish({ ...pivot, abortPolicy: "custom" })).commitSeq, 3n)
      const inOnly = yield* opened.store(opened.native.begin(), pages(2), 4, { conflicts: { in: true, out: false } })
      assert.strictEqual((yield* opened.native.publish(inOnly)).commitSeq, 4n)
    }))
})

/** The newest commit above a sequence whose marker a power loss would leave. */
const markerAfter = (disk: MemoryDisk, seq: bigint) =>
  Effect.gen(function*() {
    const { tip } = yield* examineNative(yield* Vfs, memoryPath)
    return tip > seq ? tip : undefined
  }).pipe(Effect.provide(MemoryVfs.layerDisk(disk.afterCrash("lost")), { local: true }))
