/**
 * Many writers in a loop, whose batches are on their way behind one another, over several generations of the log: what
 * was acknowledged is there after every power loss, whatever was under way.
 */
import { assert, describe, it } from "@effect/vitest"
import { PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import type { CommitSeq } from "@tidemark/core/Scalars"
import type { MemoryDisk as Disk } from "@tidemark/platform/MemoryDisk"
import { MemoryDisk } from "@tidemark/platform/MemoryDisk"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { WalDamaged } from "../src/StartUpErrors.ts"
import { Ledger } from "./support/ledger.ts"
import { memoryPath, openMemory, openOn, prepareDisk } from "./support/sqliteWal.ts"

const pageSize = PageSize.make(512)
const writers = Array.from({ length: 64 }, (_, writer) => writer)
const rounds = 8
const walPath = `${memoryPath}-wal`

/** The platform of a disk that counts the writes of the log that are asked for in the background. */
const counting = (disk: Disk, hasWriteQueue?: boolean) => {
  const counts = { underWay: 0, most: 0, inTwo: 0 }
  const layer = Layer.effect(
    Vfs,
    Effect.map(Effect.service(Vfs), (vfs) =>
      Vfs.of({
        ...vfs,
        open: (path, options) =>
          Effect.map(vfs.open(path, options), (file) =>
            path !== walPath ? file : ({
              ...file,
              hasWriteQueue: () => hasWriteQueue ?? file.hasWriteQueue(),
              writeAndSyncData: (buffers, position, how) =>
                how?.background !== true ? file.writeAndSyncData(buffers, position, how) : Effect.acquireUseRelease(
                  Effect.sync(() => {
                    counts.underWay++
                    counts.most = Math.max(counts.most, counts.underWay)
                    if (counts.underWay === 2) counts.inTwo++
                  }),
                  () => file.writeAndSyncData(buffers, position, how),
                  () =>
                    Effect.sync(() => {
                      counts.underWay--
                    })
                )
            }))
      }))
  ).pipe(Layer.provideMerge(MemoryVfs.layerDisk(disk)))
  return { counts, layer }
}

const options = { create: { pageSize }, preallocateBytes: 4096, autoCheckpointFrames: 0 }

/** Opens what a power loss left; a lost part of a batch that nobody was told about may have to be asked for. */
const reopen = (disk: Disk) =>
  openMemory(disk, options).pipe(
    Effect.catchIf((error) => error instanceof WalDamaged, () => openMemory(disk, { ...options, acceptLoss: true }))
  )

const recover = (disk: Disk, ledger: Ledger, label: string) =>
  Effect.scoped(Effect.gen(function*() {
    const opened = yield* reopen(disk)
    const { commitSeq } = opened.log.published()
    assert.isTrue(ledger.versions.has(commitSeq), `${label}: commit ${commitSeq} was made`)
    const reader = opened.log.openReader()
    assert.isUndefined(ledger.differenceOf(reader), `${label}: the pages of commit ${commitSeq}`)
    reader.release()
    return commitSeq
  })).pipe(Effect.catchCause((cause) => Effect.die(new Error(`${label}: ${Cause.pretty(cause)}`))))

describe("SqliteWal, batches behind one another", () => {
  it.effect.each([
    { count: 47, hasWriteQueue: true, isOverlapping: false },
    { count: 48, hasWriteQueue: true, isOverlapping: true },
    { count: 79, hasWriteQueue: false, isOverlapping: false },
    { count: 80, hasWriteQueue: false, isOverlapping: true }
  ])(
    "GC-02 $count writers work beside a sync: $isOverlapping, where the file has a queue: $hasWriteQueue",
    ({ count, hasWriteQueue, isOverlapping }) =>
      Effect.gen(function*() {
        const disk = prepareDisk(MemoryDisk.make({ async: { seed: 1, maxTurns: 3 } }))
        const { counts, layer } = counting(disk, hasWriteQueue)
        const opened = yield* openOn(layer, { ...options, database: memoryPath })
        const ledger = new Ledger(pageSize)
        yield* Effect.forEach(
          Array.from({ length: count }),
          () => Effect.repeat(ledger.commit(opened, { pages: [2], databasePages: 8 }), { times: 5 }),
          { concurrency: "unbounded", discard: true }
        )
        assert.strictEqual(counts.most > 0, isOverlapping)
      })
  )

  it.effect.each([{ seed: 1, widensTails: false }, { seed: 2, widensTails: true }])(
    "SWAL-05 SWAL-08 GC-02 64 writers over several generations (seed $seed, whole blocks: $widensTails)",
    ({ seed, widensTails }) =>
      Effect.gen(function*() {
        const disk = prepareDisk(MemoryDisk.make({ async: { seed, maxTurns: 3 }, widensTails }))
        const trace = disk.record<CommitSeq>()
        const ledger = new Ledger(pageSize)
        ledger.onAcknowledged = (seq) => trace.mark(seq)
        const { counts, layer } = counting(disk)
        yield* Effect.scoped(Effect.gen(function*() {
          const opened = yield* openOn(layer, {
            ...options,
            database: memoryPath,
            autoCheckpointFrames: 64,
            restartFrames: 96
          })
          const writer = Effect.fnUntraced(function*(number: number) {
            for (let round = 0; round < rounds; round++) {
              yield* ledger.commit(opened, { pages: [2 + (number + round) % 6], databasePages: 8 })
            }
          })
          yield* Effect.forEach(writers, writer, { concurrency: "unbounded", discard: true })
        }))
        trace.stop()
        assert.strictEqual(ledger.acknowledged, toCommitSeq(BigInt(64 * rounds)))
        assert.strictEqual(counts.most, 2)
        assert.isAbove(counts.inTwo, 4, "two batches are on their way again and again")

        let headers = 0
        let isHeaderSynced = false
        for (const step of trace.steps) {
          if (step.path !== walPath) continue
          if (step.kind === "syncData") isHeaderSynced = true
          if (step.kind !== "write") continue
          if (step.position === 0 && step.bytes.length === 32) {
            headers++
            isHeaderSynced = false
          } else assert.isTrue(isHeaderSynced, "no frame goes before the header is synced")
        }
        assert.isAtLeast(headers, 3, "the log starts over again and again")

        let states = 0
        for (const state of trace.crashStates({ seed, perStep: 3, exhaustiveUpTo: 4 })) {
          states++
          const acknowledged = state.marks.at(-1) ?? toCommitSeq(0n)
          const tip = yield* recover(state.disk, ledger, state.label)
          assert.isTrue(tip >= acknowledged, `${state.label}: commit ${acknowledged} was acknowledged, tip ${tip}`)
        }
        assert.isAbove(states, 200)
      })
  )
})
