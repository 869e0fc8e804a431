/**
 * The rows of the start-up table and the ways to find the tip, in words.
 *
 * @since 0.1.0
 */
import type { NativeTipSource } from "@tidemark/wal/NativeStartUp"
import type { ParallelTipSource } from "@tidemark/wal/ParallelStartUp"
import type { StartUpCase, StartUpProblem } from "@tidemark/wal/StartUp"
import { count, type Style } from "../Style.ts"

/**
 * @category formatting
 * @since 0.1.0
 */
export const meaningOf: Record<StartUpCase, string> = {
  "RC-01": "only the database file",
  "RC-02": "the log is whole",
  "RC-03": "the log ends in bytes of no commit",
  "RC-04": "the log is empty or has no readable header",
  "RC-05": "the log has pages of another size than the database",
  "RC-06": "the log and what vouches for its commits agree",
  "RC-07": "a segment of no commit stands behind the last certificate",
  "RC-08": "a segment with acknowledged commits is lost",
  "RC-09": "the certificate log ends in a torn certificate",
  "RC-10": "the certificate log is damaged",
  "RC-11": "the certificate log is missing",
  "RC-14": "the marker stream ends in a torn marker",
  "RC-15": "the capsule of an acknowledged commit is lost",
  "RC-16": "a capsule of no commit is left behind",
  "RC-19": "spill files are left behind",
  "RC-20": "two kinds of log hold commits",
  "RC-21": "segments or capsules whose commits are in the database file are left behind",
  "RC-22": "a segment of no commit stands between certified ones",
  "RC-23": "the newest commits are in a log of another kind",
  "RC-24": "a rollback journal is hot",
  "RC-25": "temporary files are left behind",
  "RC-26": "the marker stream is damaged"
}

/**
 * @category formatting
 * @since 0.1.0
 */
export const tipMeaning: Record<ParallelTipSource | NativeTipSource, string> = {
  "checkpoint-mark": "by the checkpoint mark",
  "certificate": "by the last certificate",
  "marker": "by the last marker",
  "trusted-segments": "by segments that nothing vouches for",
  "wal-base": "by the WAL base",
  "previous-generation": "by the WAL base; the log is of the generation before",
  "sealed": "by the WAL base; no log is needed",
  "no-wal-base": "counted in the log: Tidemark has never written this database",
  "foreign": "2^32 above the WAL base: the log is not Tidemark's"
}

/**
 * The problems as they are printed, or nothing when there are none.
 *
 * @category formatting
 * @since 0.1.0
 */
export const problemLines = (problems: ReadonlyArray<StartUpProblem>, style: Style): string =>
  problems.length === 0 ?
    "" :
    `\nProblems\n${
      problems.map(({ offset, path, severity, what }) =>
        `  ${style.bad(severity)} in ${path} at byte ${count(offset)}: ${what}\n`
      ).join("")
    }`
