/**
 * What the commands do about a marker stream that is damaged above the checkpoint mark (RC-26). Such a database can be
 * opened and read; every command that opens one is to write it.
 *
 * @since 0.1.0
 */
import type { FileLock } from "@tidemark/platform/FileLock"
import { Vfs } from "@tidemark/platform/Vfs"
import type { CapsuleStore } from "@tidemark/wal/CapsuleStore"
import type { MarkersDamaged } from "@tidemark/wal/MarkerErrors"
import * as NativeLog from "@tidemark/wal/NativeLog"
import { examineNative } from "@tidemark/wal/NativeStartUp"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"

/**
 * The native log of a database, or the damage as the failure, where nothing may be committed or copied. It is looked at
 * before it is opened: a log that only reads ends as one that has failed, and says so.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerUndamaged = (
  options: NativeLog.NativeLogOptions
): Layer.Layer<NativeLog.NativeLog | CapsuleStore, NativeLog.OpenNativeError | MarkersDamaged, Vfs | FileLock> =>
  Layer.unwrap(Effect.gen(function*() {
    const { acceptLoss, database } = options
    const { damage, isReadOnly, refusal } = yield* examineNative(yield* Vfs, database, { acceptLoss })
    // What is refused anyway is refused for its own reason.
    if (refusal === undefined && isReadOnly && damage !== undefined) return yield* damage
    return NativeLog.layer(options)
  }))

/**
 * The damage as it is printed.
 *
 * @category reports
 * @since 0.1.0
 */
export const damageJson = ({ damage, last }: MarkersDamaged): Readonly<Record<string, unknown>> => ({
  path: damage.path,
  offset: damage.offset,
  recordsBehind: damage.recordsBehind,
  couldBeTorn: damage.couldBeTorn,
  lastSequence: last ?? null
})
