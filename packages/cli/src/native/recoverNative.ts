/**
 * `recover` for a database with a native log: opens it, which is recovery, and checkpoints it.
 *
 * @since 0.1.0
 */
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { capsulePath } from "@tidemark/wal/CapsuleFormat"
import { makeCapsuleStore } from "@tidemark/wal/CapsuleStore"
import { NativeLog } from "@tidemark/wal/NativeLog"
import type { NativeExamination } from "@tidemark/wal/NativeStartUp"
import * as Effect from "effect/Effect"
import { droppedBytesOf, sizesOf } from "../startUp/droppedBytes.ts"
import { pagesAppliedOf, recoveryReport } from "../startUp/startUpReports.ts"
import { counted } from "../Style.ts"
import { damageJson, layerUndamaged } from "./markerDamage.ts"

/**
 * Recovers a database as one with a native log. `acceptLoss` keeps what stands before damage in its markers (RC-26).
 *
 * @category recovery
 * @since 0.1.0
 */
export const recoverNative = Effect.fnUntraced(function*(database: string, acceptLoss: boolean) {
  // Before it is opened: some of them go away with that.
  const sizes = yield* sizesOfCapsules(database)
  return yield* Effect.gen(function*() {
    const { checkpoint, startUp } = yield* NativeLog
    yield* checkpoint("truncate")
    return reportOf(startUp, sizes)
  }).pipe(Effect.provide(layerUndamaged({ database, acceptLoss, autoCheckpointFrames: 0, checkpointOnClose: false })))
})

const sizesOfCapsules = Effect.fnUntraced(function*(
  database: string
): Effect.fn.Return<ReadonlyMap<string, number>, VfsError, Vfs> {
  const vfs = yield* Vfs
  const ids = yield* Effect.flatMap(makeCapsuleStore(vfs, { database }), ({ list }) => list).pipe(Effect.scoped)
  return yield* sizesOf(vfs, ids.map((id) => capsulePath(database, id)))
})

/** What of the marker stream does not count: a torn end, or everything from the damage on. */
const droppedMarkerBytes = ({ damage, markers, tornTailBytes }: NativeExamination): number => {
  if (damage === undefined || markers === undefined) return tornTailBytes
  const { offset, path } = damage.damage
  const damaged = markers.segments.findIndex((segment) => segment.path === path)
  return markers.segments.slice(damaged).reduce((sum, { bytes }) => sum + bytes, -offset)
}

const reportOf = (startUp: NativeExamination, sizes: ReadonlyMap<string, number>) => {
  const { damage, live } = startUp
  const orphans = startUp.orphans.map(({ path }) => path)
  return recoveryReport("native", startUp, {
    commits: live.length,
    pagesApplied: pagesAppliedOf(startUp),
    droppedBytes: droppedBytesOf(sizes, orphans) + droppedMarkerBytes(startUp),
    json: { unacknowledgedCapsules: orphans, damage: damage === undefined ? null : damageJson(damage) },
    lines: [
      ...(orphans.length === 0 ? [] : [["without a marker", counted(orphans.length, "capsule")] as const]),
      ...(damage === undefined ? [] : [["markers lost", `from byte ${damage.damage.offset} on`] as const])
    ]
  })
}
