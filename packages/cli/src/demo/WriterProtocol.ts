/**
 * What the demo and the process that commits for it say to each other.
 *
 * **Details**
 *
 * The job comes over standard input, as one JSON document. The answers go through a pipe of their own (descriptor 3), in
 * lines; a line that the process did not live to end counts as not written.
 *
 * | line | means |
 * | --- | --- |
 * | `recovered CASES I...` | the database is open; these rows of the start-up table applied, with commas between them, and these transactions were found committed |
 * | `committed MICROS SYNCS CONFLICTS RETRIES I...` | these are durable; the counts are those of the process so far |
 * | `finished` | everything is committed and checkpointed |
 * | `failed SENTENCE` | the process gave up |
 *
 * @since 0.1.0
 */
import { invariant } from "@tidemark/core/Invariant"
import * as Schema from "effect/Schema"
import { databaseLogs, type EngineCounts } from "../database.ts"

/**
 * The descriptor of the pipe in the process that commits.
 *
 * @category constants
 * @since 0.1.0
 */
export const answerDescriptor = 3

const Index = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/**
 * @category schemas
 * @since 0.1.0
 */
export const WriterJob = Schema.Struct({
  database: Schema.String,
  log: Schema.Literals(databaseLogs),
  recordedWal: Schema.String,
  writers: Index,
  recorded: Index,
  additions: Index,
  initialPages: Index,
  ledgerPages: Schema.Array(Index),
  counterPages: Schema.Array(Index),
  /** Transactions that were acknowledged before this process began: they are not committed again, whatever is found. */
  acknowledged: Schema.Array(Index)
})
export type WriterJob = typeof WriterJob.Type

/**
 * The codec of the job.
 *
 * @category schemas
 * @since 0.1.0
 */
export const WriterJobJson = Schema.fromJsonString(WriterJob)

/**
 * @category models
 * @since 0.1.0
 */
export type WriterAnswer =
  | {
    readonly _tag: "recovered"
    readonly startUpCases: ReadonlyArray<string>
    readonly indices: ReadonlyArray<number>
  }
  | {
    readonly _tag: "committed"
    readonly elapsedMicros: number
    readonly counts: EngineCounts
    readonly indices: ReadonlyArray<number>
  }
  | { readonly _tag: "finished" }
  | { readonly _tag: "failed"; readonly sentence: string }

/**
 * An answer as a line.
 *
 * @category encoding
 * @since 0.1.0
 */
export const encodeAnswer = (answer: WriterAnswer): string => {
  switch (answer._tag) {
    case "recovered":
      return `recovered ${[answer.startUpCases.join(","), ...answer.indices].join(" ")}\n`
    case "committed": {
      const { conflicts, retries, syncs } = answer.counts
      return `committed ${[answer.elapsedMicros, syncs, conflicts, retries, ...answer.indices].join(" ")}\n`
    }
    case "finished":
      return "finished\n"
    case "failed":
      return `failed ${answer.sentence.replace(/\s+/g, " ")}\n`
  }
}

/**
 * Reads a line, without its line feed.
 *
 * @category decoding
 * @since 0.1.0
 */
export const decodeAnswer = (line: string): WriterAnswer => {
  const space = line.indexOf(" ")
  const tag = space < 0 ? line : line.slice(0, space)
  const rest = space < 0 ? "" : line.slice(space + 1)
  const parts = rest.split(" ")
  switch (tag) {
    case "recovered": {
      const [cases = "", ...indices] = parts
      return {
        _tag: "recovered",
        startUpCases: cases === "" ? [] : cases.split(","),
        indices: indices.map(Number)
      }
    }
    case "committed": {
      const [elapsedMicros = 0, syncs = 0, conflicts = 0, retries = 0, ...indices] = parts.map(Number)
      return { _tag: "committed", elapsedMicros, counts: { syncs, conflicts, retries }, indices }
    }
    case "finished":
      return { _tag: "finished" }
    case "failed":
      return { _tag: "failed", sentence: rest }
    default:
      invariant(false, `a line of the writer's is one of four, not "${tag}"`)
  }
}

/**
 * Puts chunks of bytes together to lines; what stands behind the last line feed waits for more.
 *
 * @category decoding
 * @since 0.1.0
 */
export class LineReader {
  private rest = ""

  take(chunk: string): ReadonlyArray<string> {
    const lines = (this.rest + chunk).split("\n")
    this.rest = lines.pop() ?? ""
    return lines
  }
}
