/**
 * What a database with a native log is found to be at open: which rows of the start-up table apply (section 10 of
 * `formats.md`), which capsules are to be replayed, what is refused, and where the sequence of commits stands.
 *
 * **Details**
 *
 * 1. Nothing is written: the opener, `verify` and `inspect` see the same thing, and look as often as they like.
 * 2. A refusal is an answer, not a failure: what was found is answered beside it. The effect fails only when a file
 *    cannot be read.
 * 3. What counts is what a marker above the checkpoint mark names, each in its turn: its capsule is there and hashes to
 *    the id in the marker, or the start is refused (RC-15). Markers at or below the mark are history: neither they nor
 *    their capsules have to be whole, or there.
 * 4. Where the marker stream does not check above the mark, what is before the place counts and nothing is committed or
 *    removed (RC-26), until the loss is accepted. The same where the stream ends before the mark although the database
 *    says that its newest commits are in it.
 * 5. The markers above the mark begin above everything that the other logs have used. If they do not, two histories are
 *    mixed (RC-20).
 * 6. A sequence that has been used is not used again, whichever log has used it (section 2.1), and whether or not its
 *    commit was lost.
 *
 * Locks are not looked at: whether somebody else has the database open is for the opener, who takes them (SWAL-10).
 *
 * @since 0.1.0
 */
import type { CommitSeq, ObjectId, TxnToken } from "@tidemark/core/Scalars"
import { objectIdToHex } from "@tidemark/core/Scalars"
import type { Vfs } from "@tidemark/platform/Vfs"
import type { VfsError } from "@tidemark/platform/VfsError"
import * as Effect from "effect/Effect"
import type { CheckpointMark } from "./CheckpointMarkFormat.ts"
import { missingPages } from "./internal/missingPages.ts"
import { makeNativePlan } from "./internal/nativePlan.ts"
import { decideNativeRows, isReadOnly, listNativeProblems } from "./internal/nativeRows.ts"
import { readLeftOver, replayCapsules } from "./internal/startUpCapsules.ts"
import { type FoundFiles, pagesOfFile, readFiles } from "./internal/startUpFiles.ts"
import type { MarkersDamaged } from "./MarkerErrors.ts"
import type { MarkerScan } from "./MarkerStore.ts"
import type { StartUpExamination, StartUpProblem, TipSource } from "./StartUp.ts"

/**
 * A capsule whose commit counts and is not in the database file.
 *
 * @category models
 * @since 0.1.0
 */
export interface LiveCapsule {
  readonly path: string
  readonly id: ObjectId
  /** Of its commit. */
  readonly seq: CommitSeq
  readonly token: TxnToken
  /** Size of the file. */
  readonly bytes: number
  /** Pages of the database after it. */
  readonly databasePages: number
  /** Ascending. */
  readonly pages: Uint32Array
  /** Where the image of each page starts in the file. It is as long as a page. */
  readonly offsets: Float64Array
}

/**
 * A capsule that no marker names (RC-16): its commit was never acknowledged.
 *
 * @category models
 * @since 0.1.0
 */
export interface OrphanCapsule {
  readonly path: string
  readonly id: ObjectId
  /** Whose it is, for those who must not take it from a transaction that lives; `undefined` when the file is not whole. */
  readonly token: TxnToken | undefined
}

/**
 * How the sequence of the last commit was found: by a rule of {@link TipSource}, or by the last marker.
 *
 * @category models
 * @since 0.1.0
 */
export type NativeTipSource = TipSource | "marker"

/**
 * @category models
 * @since 0.1.0
 */
export interface NativeStartUpOptions {
  /** Where the marker stream is damaged, go on with the commits before the damage (RC-26). Default false. */
  readonly acceptLoss?: boolean | undefined
}

/**
 * What {@link examineNative} found. The row RC-06 stands for a native log as for a parallel one: it is whole.
 *
 * @category models
 * @since 0.1.0
 */
export interface NativeExamination extends StartUpExamination {
  /** `undefined` when there is none, or when it does not check. */
  readonly mark: CheckpointMark | undefined
  /** `undefined` when there is no marker segment. */
  readonly markers: MarkerScan | undefined
  /** The last sequence that is used, by whatever log, also when its commit is lost: an opener goes on above it. */
  readonly tip: CommitSeq
  readonly tipSource: NativeTipSource
  /** The last sequence before the first live commit; the tip when there is none. */
  readonly base: CommitSeq
  /** What is to be replayed, in this order. Without any the database file is all there is. */
  readonly live: ReadonlyArray<LiveCapsule>
  /**
   * Capsules without a marker (RC-16), for the holder of the coordinator's lock to remove, those of living transactions
   * excepted. None while the stream is damaged and the loss is not accepted: a lost marker may have named them.
   */
  readonly orphans: ReadonlyArray<OrphanCapsule>
  /** Capsules at or below the mark (RC-21), for the holder of the coordinator's lock to remove. */
  readonly removable: ReadonlyArray<string>
  /** Spill files (RC-19) and temporary files (RC-25), for the holder of the coordinator's lock to remove. */
  readonly sweepable: ReadonlyArray<string>
  /** What is wrong with the marker stream above the mark (RC-26), whether or not the loss is accepted. */
  readonly damage: MarkersDamaged | undefined
  /** There is damage, and the loss is not accepted: what is live can be read, nothing is committed, written or removed. */
  readonly isReadOnly: boolean
  /** The highest transaction id in live capsules and in whole orphans, for the next one to be above it (RC-18); 0 without any. */
  readonly lastTxnId: bigint
  readonly problems: ReadonlyArray<StartUpProblem>
  /** Bytes of the marker stream that were never acknowledged (RC-14). */
  readonly tornTailBytes: number
}

/**
 * Looks at a database and everything beside it, and says what a start with the native log would do. Writes nothing.
 *
 * **Details**
 *
 * Markers above the checkpoint mark are verified and the capsules that they name are read as a whole, one at a time; what
 * is kept of one are 12 bytes per page. Other capsules are read when no marker names them. Markers at or below the mark
 * are looked at only where capsules are left over, the last 16,384 of them at most.
 *
 * **Example** (What would be replayed)
 *
 * ```ts
 * import { Vfs } from "@tidemark/platform/Vfs"
 * import { examineNative } from "@tidemark/wal/NativeStartUp"
 * import * as Effect from "effect/Effect"
 *
 * const replayed = (path: string) =>
 *   Effect.gen(function*() {
 *     const found = yield* examineNative(yield* Vfs, path)
 *     if (found.refusal !== undefined) return yield* found.refusal
 *     return found.live.map(({ pages, seq }) => `commit ${seq}: ${pages.length} pages`)
 *   })
 * ```
 *
 * @category recovery
 * @since 0.1.0
 */
export const examineNative = Effect.fnUntraced(function*(
  vfs: Vfs["Service"],
  database: string,
  options: NativeStartUpOptions = {}
): Effect.fn.Return<NativeExamination, VfsError> {
  const found = yield* readFiles(vfs, database)
  const plan = makeNativePlan(found)
  const { base, through } = plan
  const replay = yield* replayCapsules(vfs, database, plan.live, {
    base,
    pageSize: found.database.header?.pageSize,
    databasePages: pagesAt(found, base)
  })
  const replayed = new Set(plan.live.map(({ capsule }) => objectIdToHex(capsule)))
  // Without the mark it is not known which of them are history.
  const rest = found.mark.issue === undefined
    ? found.beside.capsules.filter(({ id }) => !replayed.has(objectIdToHex(id)))
    : []
  const scan = found.markers?.scan
  const { orphans, removable } = yield* readLeftOver(vfs, database, rest, scan && { scan, through })
  const isDamaged = isReadOnly(plan, options)
  const leftOver = { orphans: isDamaged ? [] : orphans, removable }

  const databasePages = replay.live.at(-1)?.databasePages ?? pagesOfFile(found)
  const missing = missingPages(replay.pageSize, databasePages, found.database.fileBytes, pagesIn(replay.live))
  const findings = { found, plan, replay, leftOver, missing, databasePages }
  const { cases, refusals } = decideNativeRows(findings)
  return {
    path: database,
    // RC-01 applies when no other row says what the log is.
    case: cases[0] ?? "RC-01",
    cases,
    refusal: refusals[0],
    databaseExists: found.database.exists,
    databaseFileBytes: found.database.fileBytes,
    databaseHeader: found.database.header,
    pageSize: replay.pageSize,
    databasePages,
    mark: found.mark.value,
    markers: scan,
    tip: plan.tip,
    tipSource: plan.tipSource,
    base,
    live: replay.live,
    ...leftOver,
    sweepable: [...found.beside.spills, ...found.beside.temporaries],
    damage: plan.damage,
    isReadOnly: isDamaged,
    lastTxnId: highestTxnId([...replay.live, ...orphans]),
    problems: listNativeProblems(findings),
    tornTailBytes: scan?.tornBytes ?? 0
  }
})

/**
 * Size of the database at a commit that is in the file. The header of the file may be that of a later one, where a
 * checkpoint was cut short; only a commit that chooses the size can be smaller, and says so.
 */
const pagesAt = (found: FoundFiles, base: CommitSeq): number =>
  found.mark.value?.through === base ? found.mark.value.databasePages : pagesOfFile(found)

function* pagesIn(live: ReadonlyArray<LiveCapsule>): Generator<number, void> {
  for (const { pages } of live) yield* pages
}

const highestTxnId = (capsules: ReadonlyArray<{ readonly token: TxnToken | undefined }>): bigint => {
  let highest = 0n
  for (const { token } of capsules) if (token !== undefined && token.id > highest) highest = token.id
  return highest
}
