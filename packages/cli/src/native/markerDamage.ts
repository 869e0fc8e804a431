/**
 * What the commands do about a marker stream that is damaged above the checkpoint mark (RC-26). Such a database can be
 * opened and read; every command that opens one is to write it.
 *
 * @since 0.1.0
 */
import type { MarkersDamaged } from "@tidemark/wal/MarkerErrors"
import type { NativeExamination } from "@tidemark/wal/NativeStartUp"
import * as Effect from "effect/Effect"

/**
 * Fails with the damage where nothing may be committed or copied.
 *
 * @category errors
 * @since 0.1.0
 */
export const refuseDamaged = (
  { damage, isReadOnly }: Pick<NativeExamination, "damage" | "isReadOnly">
): Effect.Effect<void, MarkersDamaged> => isReadOnly && damage !== undefined ? Effect.fail(damage) : Effect.void

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
