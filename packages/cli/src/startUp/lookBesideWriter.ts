/**
 * Looks at a database with one of Tidemark's own logs, also while another process writes it. Reads only, takes no lock,
 * makes no file.
 *
 * Beside a process that writes the database, files come and go between one read and the next. What that can make look
 * wrong is told from what is wrong by two questions:
 *
 * 1. Does somebody have the database open (the kernel knows)? Then a segment that has no certificate yet, a capsule that
 *    has no marker yet, and the end of the certificates or markers, are his work in progress, however long a sync takes
 *    him.
 * 2. Is the checkpoint mark the one that the look began with? A segment or a capsule goes, and certificates are replaced,
 *    only after the mark has moved on; so under the same mark what is missing is missing. Otherwise it is looked again.
 *
 * @since 0.1.0
 */
import { FileLock } from "@tidemark/platform/FileLock"
import { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import { type CheckpointMark, readCheckpointMark } from "@tidemark/wal/CheckpointMarkFormat"
import { isDatabaseOpen } from "@tidemark/wal/DatabaseLock"
import type { StartUpCase, StartUpProblem } from "@tidemark/wal/StartUp"
import type { StartUpRefusal } from "@tidemark/wal/StartUpErrors"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"

/**
 * What the examinations of both logs have in common.
 *
 * @category models
 * @since 0.1.0
 */
export interface Examined {
  readonly path: string
  readonly case: StartUpCase
  readonly cases: ReadonlyArray<StartUpCase>
  readonly refusal: StartUpRefusal | undefined
  readonly mark: CheckpointMark | undefined
  readonly problems: ReadonlyArray<StartUpProblem>
}

/**
 * What was seen, without what only looked wrong.
 *
 * @category models
 * @since 0.1.0
 */
export interface Look<A> {
  readonly found: A
  readonly isBeingWritten: boolean
}

/** Checkpoints may come faster than looks: after so many of those nothing has been found that stays. */
const maxLooks = 32
const betweenLooks = "25 millis"

/**
 * Examines until what was found stays. `noWork` is what an examination says of work in progress when there is none.
 *
 * @category verification
 * @since 0.1.0
 */
export const lookBesideWriter = Effect.fnUntraced(function*<A extends Examined>(
  path: string,
  examine: Effect.Effect<A, VfsError>,
  noWork: Partial<A>
): Effect.fn.Return<Look<A>, VfsError, Vfs | FileLock> {
  const vfs = yield* Vfs
  const fileLock = yield* FileLock
  // Where there are no kernel locks nobody can have a database open.
  const isOpen = Effect.catchTag(isDatabaseOpen(fileLock, path), "FileLockUnavailable", () => Effect.succeed(false))
  // A file that was listed can be gone when it is opened.
  const examineListed = Effect.retry(examine, { times: maxLooks, while: ({ code }) => code === "ENOENT" })
  for (let looks = 1;; looks++) {
    const wasOpen = yield* isOpen
    const found = yield* examineListed
    // Who has closed it meanwhile has worked in it.
    const isBeingWritten = wasOpen || (yield* isOpen)
    if (!isBeingWritten) return { found, isBeingWritten }
    const lasting = withoutWorkInProgress(found, noWork)
    const isWrong = lasting.refusal !== undefined || lasting.problems.length > 0
    if (!isWrong || (yield* isMarkOf(vfs, found))) return { found: lasting, isBeingWritten }
    if (looks === maxLooks) return { found: { ...lasting, refusal: undefined, problems: [] }, isBeingWritten }
    yield* Effect.sleep(betweenLooks)
  }
})

/** Whether the mark is still the one under which everything was looked at. */
const isMarkOf = (vfs: Vfs["Service"], { mark, path }: Examined): Effect.Effect<boolean, VfsError> =>
  Effect.map(readCheckpointMark(vfs, path), (read) => {
    const now = read === undefined || Result.isFailure(read) ? undefined : read.success
    return now?.through === mark?.through && now?.segmentEpoch === mark?.segmentEpoch &&
      now?.certificateEpoch === mark?.certificateEpoch
  })

/**
 * Rows that apply for a moment beside a writer: between a segment and its certificate, a capsule and its marker, a mark
 * and a removal, while a file has a name for the time being.
 */
const passingRows: ReadonlySet<StartUpCase> = new Set([
  "RC-07",
  "RC-08",
  "RC-09",
  "RC-10",
  "RC-14",
  "RC-16",
  "RC-19",
  "RC-21",
  "RC-22",
  "RC-25"
])

/** Without the ends that the writer has not finished yet. */
const withoutWorkInProgress = <A extends Examined>(found: A, noWork: Partial<A>): A => {
  const problems = found.problems.filter(({ severity }) => severity !== "tail")
  if (found.refusal !== undefined || problems.length > 0) return { ...found, problems }
  const lasting = found.cases.filter((row) => !passingRows.has(row))
  const cases: ReadonlyArray<StartUpCase> = lasting.length > 0 ? lasting : ["RC-06"]
  return { ...found, ...noWork, case: cases[0] ?? "RC-06", cases, problems }
}
