/**
 * What a database in SQLite WAL mode is found to be at open: which rows of the start-up table apply (section 10 of
 * `formats.md`), what is kept, what is refused, and where the sequence of commits stands (section 2.1). The same for the
 * parallel log is in `ParallelStartUp.ts`, for the native one in `NativeStartUp.ts`.
 *
 * **Details**
 *
 * 1. Nothing is written: the opener, `verify` and `inspect` see the same thing, and look as often as they like.
 * 2. A refusal is an answer, not a failure: what was found is answered beside it. The effect fails only when a file
 *    cannot be read.
 * 3. Recovery is a table: every file is looked at whatever the others say, then the rows are decided.
 *
 * Locks are not looked at: whether somebody else has the database open is for the opener, who takes them (SWAL-10).
 *
 * @since 0.1.0
 */
import { type CommitSeq, type PageSize, toCommitSeq } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import { checkpointMarkPath } from "./CheckpointMarkFormat.ts"
import * as DatabaseHeaderFormat from "./DatabaseHeaderFormat.ts"
import { type MissingPages, missingPages, problemOfPages } from "./internal/missingPages.ts"
import {
  type FoundFiles,
  hasCommits,
  liveCertificates,
  ownLog,
  readFiles,
  saysTidemarkLog,
  usedByNative,
  usedByOtherLogs,
  usedByParallel
} from "./internal/startUpFiles.ts"
import { isHotJournal, journalPath } from "./JournalFormat.ts"
import { type ChecksumChain, type WalHeader, walPath } from "./SqliteWalFormat.ts"
import {
  CheckpointMarkDamaged,
  DatabasePagesLost,
  HotJournal,
  MixedLogs,
  NotADatabase,
  NotWalMode,
  PageSizeMismatch,
  type StartUpRefusal,
  WalBaseDamaged,
  WalDamaged,
  WalHeaderLost,
  WalVersionUnknown,
  WrongLogKind
} from "./StartUpErrors.ts"
import * as WalBaseFormat from "./WalBaseFormat.ts"

/**
 * The rows of the start-up table that can apply to a database with a SQLite WAL, a parallel log or a native one, most
 * severe first.
 *
 * @category models
 * @since 0.1.0
 */
export const startUpCases = [
  "RC-24",
  "RC-20",
  "RC-23",
  "RC-05",
  "RC-10",
  "RC-11",
  "RC-08",
  "RC-15",
  "RC-26",
  "RC-04",
  "RC-03",
  "RC-09",
  "RC-14",
  "RC-22",
  "RC-07",
  "RC-16",
  "RC-19",
  "RC-25",
  "RC-21",
  "RC-06",
  "RC-02",
  "RC-01"
] as const
export type StartUpCase = (typeof startUpCases)[number]

/**
 * How the sequence of the last commit was found (section 2.1), in the order in which the rules are tried:
 *
 * - `"checkpoint-mark"`: a parallel or native log has gone on since the last generation of the WAL began, and what it
 *   has left says how far; commits of somebody else's WAL are counted on top of that.
 * - `"wal-base"`: the base belongs to this generation of the WAL; base + commits.
 * - `"previous-generation"`: the base was written for the generation that was to follow, the crash came in between.
 * - `"sealed"`: a checkpoint has left no WAL behind, and there is none.
 * - `"no-wal-base"`: the database has never been Tidemark's; the commits in the WAL are counted.
 * - `"foreign"`: somebody else has written a WAL, or removed ours; 2^32 above the base, which no generation can reach.
 *
 * @category models
 * @since 0.1.0
 */
export type TipSource = "checkpoint-mark" | "wal-base" | "previous-generation" | "sealed" | "no-wal-base" | "foreign"

/**
 * Something that is not as it should be.
 *
 * @category models
 * @since 0.1.0
 */
export interface StartUpProblem {
  readonly path: string
  readonly offset: number
  readonly what: string
  /** `"tail"`: an end that was never acknowledged. `"corrupt"`: anything else. */
  readonly severity: "tail" | "corrupt"
}

/**
 * What a look at a database finds, whichever log it is to be opened with.
 *
 * @category models
 * @since 0.1.0
 */
export interface StartUpExamination {
  readonly path: string
  /** The row that decides: the first of {@link StartUpExamination.cases}. */
  readonly case: StartUpCase
  /** Every row that applies, most severe first. */
  readonly cases: ReadonlyArray<StartUpCase>
  /** Why the database must not be opened; `undefined` when it may be. */
  readonly refusal: StartUpRefusal | undefined
  /** Whether there is a database file, empty or not. */
  readonly databaseExists: boolean
  /** 0 when there is none. */
  readonly databaseFileBytes: number
  /** The header of the database *file* (page 1 may be newer in the log); `undefined` when it is empty or unreadable. */
  readonly databaseHeader: DatabaseHeaderFormat.DatabaseHeader | undefined
  /** Of the database, else of its log. */
  readonly pageSize: PageSize | undefined
  /** Pages of the database after the last commit that is kept. */
  readonly databasePages: number
}

/**
 * What {@link examineDatabase} found.
 *
 * @category models
 * @since 0.1.0
 */
export interface DatabaseExamination extends StartUpExamination {
  /** The size of the `-wal`; `undefined` when there is none. */
  readonly walFileBytes: number | undefined
  /** `undefined` when the WAL counts as absent (RC-01, RC-04). */
  readonly walHeader: WalHeader | undefined
  /** Frames up to the last valid commit frame. */
  readonly validFrames: number
  /** Commit frames among them. */
  readonly commits: number
  /** The page of each valid frame, in the order of the file; the last image of a page wins. */
  readonly framePages: Uint32Array
  /** Which commit each valid frame belongs to, from 1. Commit k has the sequence `tip - commits + k`. */
  readonly frameCommit: Uint32Array
  /** The checksum that the next frame continues; `undefined` when there is no WAL to continue. */
  readonly chain: ChecksumChain | undefined
  /** Bytes behind the valid part that this generation has written to; zeros and older generations do not count. */
  readonly tornTailBytes: number

  /** `undefined` when there is none, or when it does not check. */
  readonly walBase: WalBaseFormat.WalBase | undefined
  readonly tip: CommitSeq
  readonly tipSource: TipSource

  /** Spill files (RC-19) and temporary files (RC-25), for the holder of the coordinator's lock to remove. */
  readonly sweepable: ReadonlyArray<string>
  readonly problems: ReadonlyArray<StartUpProblem>
}

/**
 * Where the sequence of commits stands, by the rules of section 2.1, tried in the order of {@link TipSource}.
 *
 * **Details**
 *
 * `wal` is the header of a WAL with `commits` valid commit frames, or `undefined` when there is no WAL or what there is
 * counts as absent. A previous generation with more commits than the base counts cannot be the one the base followed.
 *
 * `through` is the last sequence that a parallel or native log has used up, by its checkpoint mark, its certificates and
 * its markers.
 * Above the base it stands for the base: that log began above every commit of the generation that the base belongs to,
 * and no generation has begun since, for the base of one is never below what is used up. Frames of that generation are
 * therefore not counted.
 *
 * @category recovery
 * @since 0.1.0
 */
export const tipAtOpen = (
  base: WalBaseFormat.WalBase | undefined,
  wal: Salts | undefined,
  commits: number,
  through: bigint = 0n
): { readonly tip: CommitSeq; readonly tipSource: TipSource } => {
  const answer = (tip: bigint, tipSource: TipSource) => ({ tip: toCommitSeq(tip < maxSeq ? tip : maxSeq), tipSource })
  if ((base?.baseCommitSeq ?? 0n) < through) {
    return answer(isOlderThan(base, wal, through) ? through : through + BigInt(commits), "checkpoint-mark")
  }
  if (base === undefined) return answer(BigInt(commits), "no-wal-base")
  const { baseCommitSeq } = base
  if (wal !== undefined && isGenerationOf(base, wal)) return answer(baseCommitSeq + BigInt(commits), "wal-base")
  if (wal !== undefined && isGenerationBefore(base, wal) && BigInt(commits) <= baseCommitSeq) {
    return answer(baseCommitSeq, "previous-generation")
  }
  if (wal === undefined && base.sealed) return answer(baseCommitSeq, "sealed")
  return answer(baseCommitSeq + foreignDistance, "foreign")
}

interface Salts {
  readonly salt1: number
  readonly salt2: number
}

const isGenerationOf = (base: WalBaseFormat.WalBase, { salt1, salt2 }: Salts) =>
  salt1 === base.salt1 && salt2 === base.salt2
const isGenerationBefore = (base: WalBaseFormat.WalBase, { salt1, salt2 }: Salts) =>
  salt1 === base.previousSalt1 && salt2 === base.previousSalt2

/** Whether the generation that a WAL holds was over before another log committed through `through`. */
const isOlderThan = (base: WalBaseFormat.WalBase | undefined, wal: Salts | undefined, through: bigint): boolean =>
  base !== undefined && wal !== undefined && base.baseCommitSeq < through &&
  (isGenerationOf(base, wal) || isGenerationBefore(base, wal))

/** A generation holds fewer than 2^32 frames, hence fewer commits. */
const foreignDistance = 2n ** 32n
const maxSeq = 2n ** 64n - 1n

/**
 * Looks at a database and everything beside it, and says what a start would do. Writes nothing.
 *
 * **Details**
 *
 * With `acceptLoss` a damaged WAL ({@link WalDamaged}), a lost WAL header ({@link WalHeaderLost}) and a damaged WAL base
 * ({@link WalBaseDamaged}) are problems instead of refusals: what is whole is kept. The WAL is read in chunks of 4 MiB;
 * what is remembered is eight bytes per frame.
 *
 * **Example** (Verifying a database)
 *
 * ```ts
 * import { Vfs } from "@tidemark/platform/Vfs"
 * import { examineDatabase } from "@tidemark/wal/StartUp"
 * import * as Effect from "effect/Effect"
 *
 * const verify = (path: string) =>
 *   Effect.gen(function*() {
 *     const found = yield* examineDatabase(yield* Vfs, path)
 *     return { case: found.case, tip: found.tip, ok: found.refusal === undefined && found.problems.length === 0 }
 *   })
 * ```
 *
 * @category recovery
 * @since 0.1.0
 */
export const examineDatabase = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  path: string,
  options?: { readonly acceptLoss?: boolean | undefined }
): Effect.fn.Return<DatabaseExamination, VfsError> {
  const found = yield* readFiles(vfs, path)
  const { beside, database, wal, walBase } = found

  const pageSize = database.header?.pageSize ?? wal.header?.pageSize
  const databasePages = wal.scan?.databasePages ??
    (database.header === undefined ? 0 : DatabaseHeaderFormat.databasePagesOf(database.header, database.fileBytes))
  const missing = missingPages(pageSize, databasePages, database.fileBytes, wal.scan?.framePages ?? [])
  const { cases, refusals } = decideRows(found, databasePages, missing, options?.acceptLoss === true)
  return {
    path,
    // One of RC-01 ... RC-04 always applies.
    case: cases[0] ?? "RC-01",
    cases,
    refusal: refusals[0],
    databaseExists: database.exists,
    databaseFileBytes: database.fileBytes,
    databaseHeader: database.header,
    pageSize,
    databasePages,
    walFileBytes: wal.fileBytes,
    walHeader: wal.header,
    validFrames: wal.scan?.validFrames ?? 0,
    commits: wal.scan?.commits ?? 0,
    framePages: wal.scan?.framePages ?? new Uint32Array(0),
    frameCommit: wal.scan?.frameCommit ?? new Uint32Array(0),
    chain: wal.scan?.chain,
    tornTailBytes: wal.scan?.tornTailBytes ?? 0,
    walBase: walBase.value,
    ...tipAtOpen(walBase.value, wal.header, wal.scan?.commits ?? 0, usedByOtherLogs(found)),
    sweepable: [...beside.spills, ...beside.temporaries],
    problems: listProblems(found, pageSize, databasePages, missing)
  }
})

/** The rows that apply and the refusals among them, both most severe first. */
const decideRows = (
  found: FoundFiles,
  databasePages: number,
  missing: MissingPages,
  acceptLoss: boolean
): { readonly cases: ReadonlyArray<StartUpCase>; readonly refusals: ReadonlyArray<StartUpRefusal> } => {
  const { beside, database, journal, mark, path, wal, walBase } = found
  const cases = new Set<StartUpCase>()
  const refusals: Array<StartUpRefusal> = []
  const { header } = database
  const file = walPath(path)

  // A journal comes first: before it is rolled back nothing that the database file says can be trusted.
  if (journal !== undefined && isHotJournal(journal)) {
    cases.add("RC-24")
    refusals.push(new HotJournal({ path: journalPath(path) }))
  }
  const otherLog = otherLogWithCommits(found)
  if (otherLog !== undefined) {
    const isMixed = otherLog instanceof MixedLogs
    cases.add(isMixed ? "RC-20" : "RC-23")
    refusals.push(otherLog)
  }
  if (database.issue !== undefined) refusals.push(new NotADatabase({ path, issue: database.issue }))
  if (header !== undefined && !DatabaseHeaderFormat.isWal(header) && !DatabaseHeaderFormat.isTidemarkLog(header)) {
    refusals.push(new NotWalMode({ path, writeVersion: header.writeVersion, readVersion: header.readVersion }))
  }
  if (mark.issue !== undefined && !acceptLoss) {
    refusals.push(new CheckpointMarkDamaged({ path: checkpointMarkPath(path), issue: mark.issue }))
  }
  if (header !== undefined && wal.header !== undefined && header.pageSize !== wal.header.pageSize) {
    cases.add("RC-05")
    refusals.push(
      new PageSizeMismatch({ path: file, walPageSize: wal.header.pageSize, databasePageSize: header.pageSize })
    )
  }
  if (wal.fileBytes === undefined) cases.add("RC-01")
  if (wal.issue !== undefined) {
    cases.add("RC-04")
    if (wal.issue.code === "UnsupportedVersion") {
      refusals.push(new WalVersionUnknown({ path: file, issue: wal.issue }))
    } else if (wal.carriesBaseSalts && !acceptLoss) {
      refusals.push(new WalHeaderLost({ path: file, issue: wal.issue }))
    }
  }
  if (wal.scan !== undefined) {
    const { commits, damage, tornTailBytes } = wal.scan
    cases.add(tornTailBytes > 0 ? "RC-03" : "RC-02")
    if (damage !== undefined && !acceptLoss) {
      refusals.push(
        new WalDamaged({
          path: file,
          frame: damage.frame,
          offset: damage.offset,
          keptCommits: commits,
          lostCommits: damage.lostCommits,
          lostBytes: damage.lostEnd - damage.offset
        })
      )
    }
  }
  if (walBase.issue !== undefined && !acceptLoss) {
    refusals.push(new WalBaseDamaged({ path: WalBaseFormat.walBasePath(path), issue: walBase.issue }))
  }
  if (database.fileBytes === 0 && missing.count > 0) {
    refusals.push(
      new DatabasePagesLost({
        path,
        databasePages,
        missingPages: missing.count,
        firstMissingPage: missing.first
      })
    )
  }
  if (beside.spills.length > 0) cases.add("RC-19")
  if (beside.temporaries.length > 0) cases.add("RC-25")
  return { cases: startUpCases.filter((row) => cases.has(row)), refusals }
}

/**
 * Why another log stands in the way of the WAL: it has commits that are not in the database file, or it has put newer
 * commits than those of the WAL into it.
 */
const otherLogWithCommits = (found: FoundFiles): WrongLogKind | MixedLogs | undefined => {
  const { mark, markers, path, wal, walBase } = found
  const walCommits = wal.scan?.commits ?? 0
  if (liveCertificates(found).some(hasCommits) || markers?.hasCommits === true || saysTidemarkLog(found)) {
    const other = ownLog(found)
    return walCommits > 0
      ? new MixedLogs({ path, found: other, walCommits, checkpointedThrough: undefined })
      : new WrongLogKind({ path, found: other })
  }
  const through = usedByOtherLogs(found)
  return walCommits > 0 && isOlderThan(walBase.value, wal.header, through)
    ? new MixedLogs({
      path,
      found: mark.value?.kind ?? (usedByNative(found) > usedByParallel(found) ? "native" : "parallel"),
      walCommits,
      checkpointedThrough: toCommitSeq(through)
    })
    : undefined
}

const listProblems = (
  { database, mark, path, wal, walBase }: FoundFiles,
  pageSize: number | undefined,
  databasePages: number,
  missing: MissingPages
): ReadonlyArray<StartUpProblem> => {
  const problems: Array<StartUpProblem> = []
  const file = walPath(path)
  const { issue, scan } = wal
  // An empty WAL is what a checkpoint in TRUNCATE mode leaves, and zeros are what our own writer fills ahead.
  if (issue !== undefined && (!wal.isBlank || wal.carriesBaseSalts)) {
    problems.push({
      path: file,
      offset: issue.offset,
      what: `the header is unreadable (${issue.message}), so the file counts as absent`,
      // Frames are written only behind a header that is synced: without a frame of this generation none was acknowledged.
      severity: wal.carriesBaseSalts || walBase.value === undefined ? "corrupt" : "tail"
    })
  }
  if (scan?.damage !== undefined) {
    problems.push({
      path: file,
      offset: scan.damage.offset,
      what: `frame ${scan.damage.frame} is damaged; at least ${scan.damage.lostCommits} commits behind it are lost`,
      severity: "corrupt"
    })
  } else if (scan !== undefined && scan.tornTailBytes > 0) {
    problems.push({
      path: file,
      offset: scan.validBytes,
      what: `${scan.tornTailBytes} bytes behind the last commit were never acknowledged`,
      severity: "tail"
    })
  }
  if (walBase.issue !== undefined) {
    problems.push({
      path: WalBaseFormat.walBasePath(path),
      offset: walBase.issue.offset,
      what: walBase.issue.message,
      severity: "corrupt"
    })
  }
  if (mark.issue !== undefined) {
    problems.push({
      path: checkpointMarkPath(path),
      offset: mark.issue.offset,
      what: mark.issue.message,
      severity: "corrupt"
    })
  }
  const problem = problemOfPages(path, pageSize, databasePages, database.fileBytes, missing)
  return problem === undefined ? problems : [...problems, problem]
}
