/**
 * What a transaction sees: everything that was committed up to one sequence.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import { CommitSeq, SchemaEpoch } from "./Scalars.ts"

/**
 * A point in the order of commits, together with the schema that was in force there.
 *
 * @category models
 * @since 0.1.0
 */
export const Snapshot = Schema.Struct({ high: CommitSeq, schemaEpoch: SchemaEpoch })
export type Snapshot = typeof Snapshot.Type

/**
 * Whether a version committed at `seq` is visible to `snapshot`: its sequence is not 0 and not above `snapshot.high`
 * (`formats.md` section 1).
 *
 * **Example** (Reading at a snapshot)
 *
 * ```ts
 * import { CommitSeq, SchemaEpoch } from "@tidemark/core/Scalars"
 * import { isVisible } from "@tidemark/core/Snapshot"
 *
 * const snapshot = { high: CommitSeq.make(7n), schemaEpoch: SchemaEpoch.make(0n) }
 * isVisible(CommitSeq.make(7n), snapshot) // => true
 * isVisible(CommitSeq.make(8n), snapshot) // => false
 * isVisible(CommitSeq.make(0n), snapshot) // => false
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const isVisible = (seq: CommitSeq, snapshot: Snapshot): boolean => seq !== 0n && seq <= snapshot.high
