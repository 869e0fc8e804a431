/**
 * The names of the files of the parallel WAL's segments, as `SegmentFormat.ts` hands them out: that module is the only
 * one that imports this.
 *
 * @internal
 */
import { invariant } from "@tidemark/core/Invariant"
import { WalEpoch } from "@tidemark/core/Scalars"

const nameInfix = "-wal-seg-"
const nameDigits = 16
const namePattern = /^[0-9a-f]{16}$/
const temporaryPattern = /^\.tmp-[1-9][0-9]*$/

/**
 * The file of the segment of an epoch, beside its database (PW-19).
 *
 * **Example** (Naming a segment)
 *
 * ```ts
 * import { WalEpoch } from "@tidemark/core/Scalars"
 * import { segmentPath } from "@tidemark/wal/SegmentFormat"
 *
 * segmentPath("mydb.sqlite", WalEpoch.make(0x123456789abcdef0n)) // => "mydb.sqlite-wal-seg-123456789abcdef0"
 * ```
 *
 * @category names
 * @since 0.1.0
 */
export const segmentPath = (database: string, epoch: WalEpoch): string =>
  `${database}${nameInfix}${epoch.toString(16).padStart(nameDigits, "0")}`

/**
 * The file in which an attempt (1 or more) to write a segment is made, until it gets the name of the segment.
 *
 * @category names
 * @since 0.1.0
 */
export const temporarySegmentPath = (database: string, epoch: WalEpoch, attempt: number): string => {
  invariant(Number.isSafeInteger(attempt) && attempt >= 1, "the attempts to write a segment are counted from 1 on")
  return `${segmentPath(database, epoch)}.tmp-${attempt}`
}

/**
 * The epoch of a file name (not a path), or undefined when it is no segment of that database.
 *
 * @category names
 * @since 0.1.0
 */
export const epochOfSegmentName = (databaseName: string, name: string): WalEpoch | undefined => {
  const prefix = databaseName + nameInfix
  if (!name.startsWith(prefix)) return undefined
  const digits = name.slice(prefix.length)
  return namePattern.test(digits) ? WalEpoch.make(BigInt(`0x${digits}`)) : undefined
}

/**
 * Whether a file name (not a path) is that of an attempt to write a segment of that database: left behind by a crash,
 * it is swept by the next holder of the coordinator's lock (RC-25).
 *
 * @category names
 * @since 0.1.0
 */
export const isTemporarySegmentName = (databaseName: string, name: string): boolean => {
  const nameBytes = databaseName.length + nameInfix.length + nameDigits
  return epochOfSegmentName(databaseName, name.slice(0, nameBytes)) !== undefined &&
    temporaryPattern.test(name.slice(nameBytes))
}
