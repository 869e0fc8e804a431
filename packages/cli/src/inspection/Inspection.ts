/**
 * What `inspect` finds out about a file, whichever format it has.
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { VfsFile } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import type * as Stream from "effect/Stream"

/**
 * The formats that are recognised; `"empty"` is a file without bytes, `"unknown"` anything else.
 *
 * @category models
 * @since 0.1.0
 */
export type InspectedKind =
  | "sqlite-wal"
  | "sqlite-database"
  | "wal-base"
  | "checkpoint-mark"
  | "coordinator-lease"
  | "parallel-segment"
  | "certificate-log"
  | "append-log-segment"
  | "append-log"
  | "marker-segment"
  | "marker-stream"
  | "commit-capsule"
  | "shared-memory-header"
  | "native-database"
  | "empty"
  | "unknown"

/**
 * Something in the file that does not check.
 *
 * @category models
 * @since 0.1.0
 */
export interface Problem {
  /** Only where several files are looked at. */
  readonly path?: string
  readonly offset: number
  readonly what: string
  /** `"tail"`: an end that was never acknowledged. `"corrupt"`: anything else. */
  readonly severity: "tail" | "corrupt"
}

/**
 * Fields of a header, a summary or a record. A field that is 64 bits wide in the format is a `bigint`, which JSON gets
 * as a decimal string.
 *
 * @category models
 * @since 0.1.0
 */
export interface Fields {
  readonly [name: string]: FieldValue
}
export type FieldValue = number | bigint | string | boolean | null | ReadonlyArray<number> | Fields

/**
 * One record of a file that consists of records.
 *
 * @category models
 * @since 0.1.0
 */
export interface InspectedRecord {
  readonly index: number
  readonly offset: number
  readonly valid: boolean
  readonly fields: Fields
}

/**
 * The records to list, first and last, both included: indices counted from 0, in an append log the LSNs that their
 * frames start at, in a marker stream the commit sequences of their slots.
 *
 * @category models
 * @since 0.1.0
 */
export interface RecordRange {
  readonly from: number
  readonly to: number
}

/**
 * What a format that consists of records can list.
 *
 * @category models
 * @since 0.1.0
 */
export interface InspectedRecords {
  /** Of every record, in the order of the columns of a table. */
  readonly fieldNames: ReadonlyArray<string>
  readonly list: (range: RecordRange) => Stream.Stream<InspectedRecord, VfsError>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface Inspection {
  readonly kind: InspectedKind
  /** `null` when it cannot be read. */
  readonly header: Fields | null
  readonly summary: Fields
  readonly problems: ReadonlyArray<Problem>
  /** What it consists of, where that is files of their own. */
  readonly parts?: { readonly key: string; readonly fields: ReadonlyArray<Fields> }
  /** `undefined` where the format has no records, or no readable header to find them by. */
  readonly records: InspectedRecords | undefined
}

/**
 * An open file with its size.
 *
 * @category models
 * @since 0.1.0
 */
export interface OpenedFile {
  readonly file: VfsFile
  readonly bytes: number
}

/**
 * The problem that a decoder's issue is.
 *
 * @category constructors
 * @since 0.1.0
 */
export const problemOf = (issue: FormatIssue): Problem => ({
  offset: issue.offset,
  what: `${issue.field} is ${issue.found}, expected ${issue.expected}`,
  severity: "corrupt"
})
