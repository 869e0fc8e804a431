/**
 * A look at the directory of an append log, read-only: its segments, how far each of them is valid, what lies behind
 * that, and what it means (RC-12, RC-13 and RC-25 of `formats.md`). Recovery, `tidemark inspect` and `tidemark verify`
 * are three callers of this one scan; they differ in what they do with its answer.
 *
 * **Details**
 *
 * What a power loss can leave, given the order of the writer's steps (LOG-07, LOG-08), and nothing else, is accepted:
 *
 * 1. A segment gets its name when its header is durable, and when everything in the segment before it is. So under the
 *    name of a segment there is a whole header, and only the last segment can have a tail.
 * 2. Segments are removed from the front, one durable removal after the other, so that what is kept has no gap: each
 *    segment starts where the one before it ends, and has the next index.
 * 3. In the last segment, what follows the last valid batch is a *torn tail* (RC-12), unless a commit frame behind it
 *    proves that the first bad batch was durable once: then it is *damage* (RC-13). Both may be nothing: a last segment
 *    without any frame is one that had just begun.
 * 4. Files are made under temporary names, and swept by the next one who opens the log (RC-25).
 * 5. Behind the last batch of a segment that is not the last there are zeros, nothing, or the rest of a recycled file's
 *    former contents. They are counted and mean nothing.
 *
 * Everything else is {@link LogCorrupt}. A directory with none of the log's files is a log that was never begun.
 *
 * **Gotchas**
 *
 * Damage to the last batch of a log cannot be told from a tear: nothing was written behind it that could say so. And a
 * last segment that is gone altogether leaves a log that looks as if it ended with the one before it.
 *
 * A log may be looked at while it is written. The answer is then one that was true at some moment, and bytes that are
 * being written count as a tail.
 *
 * @since 0.1.0
 */
import type { FormatIssue } from "@tidemark/core/BinaryFormat"
import type { Lsn } from "@tidemark/core/Scalars"
import { toLsn } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import { LogCorrupt } from "./AppendLogErrors.ts"
import {
  lockFileName,
  looksLikeSegmentName,
  offsetOf,
  parseSegmentFileName,
  type SegmentHeader
} from "./AppendLogFormat.ts"
import { isAnyTemporaryName } from "./AtomicFile.ts"
import { chainProblems } from "./internal/appendLogChain.ts"
import { scanSegmentFile } from "./internal/appendLogScanSegment.ts"

/**
 * What was found in one segment.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentScan {
  readonly name: string
  readonly path: string
  /** Size of the file. */
  readonly bytes: number
  /** What the header says; without one, what the name says, or 0. */
  readonly startLsn: Lsn
  readonly header: SegmentHeader | undefined
  /** Why there is no header. */
  readonly issue: FormatIssue | undefined
  /** Behind the last valid batch; the start when there is none. */
  readonly endLsn: Lsn
  /**
   * Everything before this position was durable when the batch that starts here was written. Nothing says so of what
   * follows, up to `endLsn`: it may have been read from a page cache that will never write it, because a sync of it
   * failed and marked it clean. Who builds on it writes it again first; another sync alone proves nothing.
   */
  readonly durableLsn: Lsn
  readonly batches: number
  readonly records: number
  /** Bytes of the payloads of the records. */
  readonly payloadBytes: number
  /** Bytes from the end of the last valid batch to the last byte that is not zero. */
  readonly trailingBytes: number
  /** Why what stands at `endLsn` is no batch, as a phrase with the batch as its subject; `undefined` at the end of the file. */
  readonly stop: string | undefined
  /** There is none in a segment that is not the last of its log. */
  readonly damage: SegmentDamage | undefined
}

/**
 * The batch at the end of the valid ones is bad although it was durable.
 *
 * @category models
 * @since 0.1.0
 */
export interface SegmentDamage {
  /** The end of a batch that was written when everything before it was durable. */
  readonly provenBy: Lsn
}

/**
 * What stands behind the last valid batch of the log and was never acknowledged as durable (RC-12).
 *
 * @category models
 * @since 0.1.0
 */
export interface TornTail {
  readonly lsn: Lsn
  readonly path: string
  /** Where it begins in the file. */
  readonly offset: number
  /** Up to the last byte that is not zero. */
  readonly bytes: number
}

/**
 * What was found in the directory of a log.
 *
 * @category models
 * @since 0.1.0
 */
export interface ScanReport {
  readonly directory: string
  /** 16 bytes; `undefined` when there is no segment with a header. */
  readonly logId: Uint8Array | undefined
  /** Ascending. Empty when the log was never begun. */
  readonly segments: ReadonlyArray<SegmentScan>
  /** Where the first segment starts, 0 without any. */
  readonly firstLsn: Lsn
  /** Where the next batch goes; with problems: how far the log is whole. */
  readonly endLsn: Lsn
  readonly batches: number
  readonly records: number
  readonly tornTail: TornTail | undefined
  /** Damage, in the order of positions (RC-13). A log with any is not opened. */
  readonly problems: ReadonlyArray<LogCorrupt>
  /** Names of temporary and prepared files, which the next one who opens the log removes (RC-25). */
  readonly temporaries: ReadonlyArray<string>
  /** Names that have nothing to do with the log. Nobody touches those. */
  readonly foreign: ReadonlyArray<string>
}

/**
 * @category models
 * @since 0.1.0
 */
export interface ScanOptions {
  /** Called with the bytes done since the last call, some thousand times a second; they add up to the sizes of the files. */
  readonly onProgress?: ((bytes: number) => void) | undefined
}

/**
 * Bytes read at a time: enough that the calls cost nothing beside the checksums, little enough to stay in the cache of
 * the processor between being read and being checked.
 */
const blockBytes = 1024 * 1024

/** How often a look is begun again because a writer removed a segment between being listed and being opened. */
const maxRestarts = 8

/**
 * Looks at one segment by itself, wherever it lies and whatever its name is. Changes nothing.
 *
 * @category scanning
 * @since 0.1.0
 */
export const scanSegment = (
  vfs: Vfs["Service"],
  path: string,
  options: ScanOptions & {
    /** Whether it is the last one of its log, in which case its tail is searched for proof of damage. Default true. */
    readonly isLast?: boolean | undefined
  } = {}
): Effect.Effect<SegmentScan, VfsError> =>
  scanSegmentFile(vfs, path, {
    isLast: options.isLast ?? true,
    buffer: new Uint8Array(blockBytes),
    onProgress: options.onProgress ?? noProgress
  })

/** A block, or as much of one as the largest file needs. */
const bufferFor = (largestBytes: number) => new Uint8Array(Math.min(blockBytes, Math.ceil((largestBytes + 64) / 8) * 8))

const noProgress = () => {}

/**
 * Looks at the directory of a log and answers everything that it found, damage too. Changes nothing.
 *
 * **Details**
 *
 * Fails with `VfsError` when the directory does not exist or a file cannot be read.
 *
 * @category scanning
 * @since 0.1.0
 */
export const examineDirectory = (
  vfs: Vfs["Service"],
  directory: string,
  options: ScanOptions = {}
): Effect.Effect<ScanReport, VfsError> =>
  Effect.retry(examineOnce(vfs, directory, options), {
    times: maxRestarts,
    while: (error: VfsError) => error.operation === "open" && error.code === "ENOENT"
  })

/**
 * {@link examineDirectory}, refusing a damaged log with the first problem.
 *
 * @category scanning
 * @since 0.1.0
 */
export const scanDirectory = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  directory: string,
  options: ScanOptions = {}
): Effect.fn.Return<ScanReport, LogCorrupt | VfsError> {
  const report = yield* examineDirectory(vfs, directory, options)
  const problem = report.problems[0]
  if (problem !== undefined) return yield* problem
  return report
})

interface DirectoryNames {
  readonly segments: ReadonlyArray<string>
  readonly misnamed: ReadonlyArray<string>
  readonly temporaries: ReadonlyArray<string>
  readonly foreign: ReadonlyArray<string>
}

/** Names come in order, and that of segments is the order of their start LSNs. */
const sortNames = (names: ReadonlyArray<string>): DirectoryNames => {
  const found = {
    segments: new Array<string>(),
    misnamed: new Array<string>(),
    temporaries: new Array<string>(),
    foreign: new Array<string>()
  }
  for (const name of names) {
    if (name === lockFileName) continue
    if (isAnyTemporaryName(name)) found.temporaries.push(name)
    else if (parseSegmentFileName(name) !== undefined) found.segments.push(name)
    else if (looksLikeSegmentName(name)) found.misnamed.push(name)
    else found.foreign.push(name)
  }
  return found
}

const examineOnce = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  directory: string,
  options: ScanOptions
): Effect.fn.Return<ScanReport, VfsError> {
  const names = sortNames(yield* vfs.list(directory))
  const misnamed = [...names.misnamed]
  const paths: Array<string> = []
  let largestBytes = 0
  for (const name of names.segments) {
    const path = `${directory}/${name}`
    const identity = yield* vfs.identify(path)
    if (identity !== undefined && identity.kind !== "file") {
      misnamed.push(name)
      continue
    }
    paths.push(path)
    largestBytes = Math.max(largestBytes, identity?.size ?? 0)
  }
  const buffer = bufferFor(largestBytes)
  const onProgress = options.onProgress ?? noProgress
  const segments: Array<SegmentScan> = []
  for (const [index, path] of paths.entries()) {
    segments.push(yield* scanSegmentFile(vfs, path, { isLast: index === paths.length - 1, buffer, onProgress }))
  }
  const chain = chainProblems(directory, segments)
  const wholeUntil = chain[0]?.lsn ?? segments.at(-1)?.endLsn ?? toLsn(0)
  const last = segments.at(-1)
  const isTorn = chain.length === 0 && last !== undefined && last.trailingBytes > 0
  return {
    directory,
    logId: segments.find(({ header }) => header !== undefined)?.header?.logId,
    segments,
    firstLsn: segments[0]?.startLsn ?? toLsn(0),
    endLsn: wholeUntil,
    batches: segments.reduce((sum, { batches }) => sum + batches, 0),
    records: segments.reduce((sum, { records }) => sum + records, 0),
    tornTail: !isTorn ? undefined : {
      lsn: last.endLsn,
      path: last.path,
      offset: offsetOf(last.endLsn, last.startLsn),
      bytes: last.trailingBytes
    },
    problems: [...chain, ...misnamed.map((name) => misnamedProblem(`${directory}/${name}`, wholeUntil))],
    temporaries: names.temporaries,
    foreign: names.foreign
  }
})

/** It may be a segment that somebody has renamed, and the last one: the log must not go on without it. */
const misnamedProblem = (path: string, lsn: Lsn) =>
  new LogCorrupt({
    lsn,
    path,
    offset: 0,
    what:
      "is named like a segment and is none (16 lower-case hexadecimal digits and .tlog, a file): move it away or name " +
      "it as it was"
  })
