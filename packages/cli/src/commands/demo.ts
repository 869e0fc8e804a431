/**
 * `tidemark demo`: the main job on real input, and the hidden command that is the process it kills.
 *
 * @since 0.1.0
 */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import { text } from "node:stream/consumers"
import { reportOf } from "../demo/demoReport.ts"
import { type DemoOptions, runDemo, type Stage } from "../demo/runDemo.ts"
import { runWriter } from "../demo/Writer.ts"
import { writerCommandName } from "../demo/WriterProcess.ts"
import { WriterJobJson } from "../demo/WriterProtocol.ts"
import { Ended, WrongUsage } from "../ExitCode.ts"
import { json, writers } from "../flags.ts"
import { log, readLog } from "../logFlag.ts"
import { withProgress } from "../Progress.ts"
import { emit, reportFailure } from "../Report.ts"

const maxTransactions = 1_000_000
const maxSeed = 2 ** 32 - 1

/** What the command line says, once it has been looked at. */
const optionsOf = Effect.fnUntraced(function*(flags: {
  readonly dir: Option.Option<string>
  readonly writers: number
  readonly transactions: number
  readonly kill: string
  readonly keep: boolean
  readonly log: string
  readonly seed: Option.Option<number>
  readonly workers: Option.Option<string>
  readonly processes: Option.Option<string>
}): Effect.fn.Return<DemoOptions, WrongUsage> {
  const log = yield* readLog(flags.log)
  if (Option.isSome(flags.workers) || Option.isSome(flags.processes)) {
    return yield* new WrongUsage({
      sentence:
        "this version commits in one process and one thread, without --workers and --processes; it has: --dir, --writers, "
        + "--transactions, --kill, --keep, --log, --seed, --json"
    })
  }
  const { transactions } = flags
  if (transactions < 1 || transactions > maxTransactions) {
    return yield* new WrongUsage({ sentence: `--transactions ${transactions} is not in 1 ... ${maxTransactions}` })
  }
  const kill = flags.kill === "random" ? "random" : Number(flags.kill)
  if (kill !== "random" && !(flags.kill.trim() !== "" && kill >= 0 && kill <= 1)) {
    return yield* new WrongUsage({ sentence: `--kill ${flags.kill} is neither a number from 0 to 1 nor "random"` })
  }
  const seed = Option.isSome(flags.seed) ? flags.seed.value : yield* Random.nextIntBetween(0, maxSeed)
  if (seed < 0 || seed > maxSeed) {
    return yield* new WrongUsage({ sentence: `--seed ${seed} is not in 0 ... ${maxSeed}` })
  }
  return {
    directory: Option.getOrUndefined(flags.dir),
    writers: flags.writers,
    transactions,
    kill,
    keep: flags.keep,
    log,
    seed
  }
})

const demo = Effect.fnUntraced(function*(flags: Parameters<typeof optionsOf>[0]) {
  const options = yield* optionsOf(flags)
  const stage: Stage = { describe: () => "making the accounts" }
  const result = yield* runDemo(options, stage).pipe(
    Random.withSeed(options.seed),
    Effect.provide(NodeVfs.layerVfs),
    withProgress(() => stage.describe())
  )
  return reportOf(options, result)
})

/**
 * @category commands
 * @since 0.1.0
 */
export const demoCommand = Command.make("demo", {
  dir: Flag.String("dir").pipe(
    Flag.withDescription("Directory for the files, on the disk to be measured (default: that for temporary files)"),
    Flag.optional
  ),
  writers,
  transactions: Flag.Int("transactions").pipe(
    Flag.withDescription("How many transactions SQLite records (default 5000)"),
    Flag.withDefault(5000)
  ),
  kill: Flag.String("kill").pipe(
    Flag.withDescription(
      "After which part of the commits the process is killed: 0 (never) ... 1, or random (default 0.5)"
    ),
    Flag.withDefault("0.5")
  ),
  keep: Flag.Boolean("keep").pipe(
    Flag.withDescription("Keep the database and say where it is"),
    Flag.withDefault(false)
  ),
  log,
  seed: Flag.Int("seed").pipe(Flag.withDescription("Makes the workload repeatable"), Flag.optional),
  workers: Flag.String("workers").pipe(Flag.optional, Flag.withHidden),
  processes: Flag.String("processes").pipe(Flag.optional, Flag.withHidden),
  json
}, ({ json, ...flags }) => emit({ json }, demo(flags))).pipe(
  Command.withDescription(
    "Record transactions of SQLite's, commit them with many writers, kill the process in the middle, recover, and let SQLite check."
  )
)

// Not all at once: it may be more than a pipe holds, and the rest comes when there is room.
const readJob = Effect.tryPromise({
  try: () => text(process.stdin),
  catch: () => new WrongUsage({ sentence: notForPeople })
}).pipe(
  Effect.flatMap(Schema.decodeEffect(WriterJobJson)),
  Effect.mapError(() => new WrongUsage({ sentence: notForPeople }))
)
const notForPeople = `${writerCommandName} is started by demo, which tells it on standard input what to do`

/**
 * The process that `demo` starts and kills.
 *
 * @category commands
 * @since 0.1.0
 */
export const writerCommand = Command.make(writerCommandName, {}, () =>
  Effect.flatMap(readJob, runWriter).pipe(
    Effect.provide(NodeVfs.layerVfs),
    Effect.catchCause((cause) => Effect.flatMap(reportFailure(cause, false), (code) => new Ended({ code })))
  )).pipe(
    Command.withDescription("The process that commits for demo"),
    Command.unlisted
  )
