/**
 * Databases with a native log that is not checkpointed, as a crash would leave them. What is committed are transactions
 * that SQLite has recorded, so that SQLite can read what recovery makes of it.
 */
import { assert } from "@effect/vitest"
import * as NativeCoordinator from "@tidemark/coordinator/NativeCoordinator"
import * as Pager from "@tidemark/coordinator/Pager"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { Vfs } from "@tidemark/platform/Vfs"
import { capsulesDirectory } from "@tidemark/wal/CapsuleFormat"
import { markerBytes, markerSegmentHeaderBytes, markerSegmentPath } from "@tidemark/wal/MarkerFormat"
import * as NativeLog from "@tidemark/wal/NativeLog"
import { examineNative } from "@tidemark/wal/NativeStartUp"
import { Effect, Layer } from "effect"
import { copyFileSync, existsSync, readdirSync, rmSync } from "node:fs"
import { openRecordedWal } from "../../src/replay/RecordedWal.ts"
import { writeRecorded } from "../../src/replay/writeRecorded.ts"
import { makeDatabase } from "./databases.ts"

export interface MadeNative {
  readonly path: string
  /** The one file of its marker stream: a genesis record, then one for each commit. */
  readonly markers: string
  /** One for each commit, in their order. */
  readonly capsules: ReadonlyArray<string>
  readonly commits: number
}

/** Makes `name.db`, whose native log has one commit for each of `commits` rows. */
export const makeNative = (
  directory: string,
  name: string,
  options: Parameters<typeof makeDatabase>[2] = {}
): Effect.Effect<MadeNative> =>
  Effect.gen(function*() {
    const path = `${directory}/${name}.db`
    const recorded = makeDatabase(directory, `${name}-recorded`, options)
    const { commits } = recorded
    copyFileSync(recorded.base, path)
    const wal = yield* openRecordedWal(recorded.wal)
    const engine = Pager.layerNative.pipe(
      Layer.provideMerge(NativeCoordinator.layer),
      Layer.provideMerge(NativeLog.layer({ database: path, autoCheckpointFrames: 0, checkpointOnClose: false }))
    )
    yield* Effect.gen(function*() {
      const pager = yield* Pager.Pager
      const buffer = new Uint8Array(wal.pageSize)
      for (const transaction of wal.transactions) {
        yield* pager.withTransaction((into) => writeRecorded(into, wal, transaction, transaction.databasePages, buffer))
      }
    }).pipe(Effect.scoped, Effect.provide(engine, { local: true }))
    // Whoever opens the database makes it, and a refusal must not.
    rmSync(`${path}-shm`)
    const { live } = yield* examineNative(yield* Vfs, path)
    assert.lengthOf(live, commits)
    return { path, markers: markerSegmentPath(path, 0n), capsules: live.map((capsule) => capsule.path), commits }
  }).pipe(Effect.scoped, Effect.provide(NodeVfs.layer), Effect.orDie)

export const capsuleAt = ({ capsules }: MadeNative, index: number): string => {
  const path = capsules[index]
  assert(path !== undefined)
  return path
}

/** Where the marker of a sequence starts in the file: that of the first commit is 1. */
export const offsetOfMarker = (seq: number): number => markerSegmentHeaderBytes + seq * markerBytes

export const capsulesIn = (path: string): ReadonlyArray<string> => {
  const directory = capsulesDirectory(path)
  return existsSync(directory) ? readdirSync(directory) : []
}
