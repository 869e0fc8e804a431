/**
 * The control surface of the parallel WAL: what an operator can set, from the constructor or from the environment
 * (head of section PW of `behaviour.md`).
 *
 * The variables `FSQLITE_PARALLEL_WAL_*` are shared with FrankenSQLite and keep its rule: a value that cannot be read
 * never stops a program. It is warned about and the default stays; an empty one counts as not set. So that a variable
 * nobody looked at cannot switch on more than it says, the environment starts from `conservative`, and only the
 * constructor from `auto`.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"

/**
 * How the parallel WAL works.
 *
 * **Details**
 *
 * - `auto`: several lanes, and a sample of the batches is checked by shadow compare (PW-30).
 * - `conservative`: one lane, nothing sampled (PW-02).
 * - `shadow_compare`: several lanes, every batch is checked.
 *
 * @category models
 * @since 0.1.0
 */
export type ParallelWalMode = "auto" | "conservative" | "shadow_compare"

/**
 * Everything that an operator can set.
 *
 * @category models
 * @since 0.1.0
 */
export interface ControlSurface {
  readonly mode: ParallelWalMode
  /** How many lanes to use; `undefined` = as many as the machine runs threads at once. Clamped as PW-02 says. */
  readonly laneCount: number | undefined
  /** How many lanes may be encoded by worker threads; 0 = none. */
  readonly helperLaneBudget: number
  /** An epoch that has gathered so many bytes is closed without waiting for the ticker. */
  readonly maxBatchBytes: number
  /** A batch waits at most so long before its epoch is closed, a flush that is under way not counted. */
  readonly maxFlushDelayMillis: number
  /** How many of 1000 batches mode `auto` checks by shadow compare, 0 ... 1000. */
  readonly shadowComparePerMille: number
}

/**
 * What the constructor starts from. `maxBatchBytes` is the capacity of a lane and `maxFlushDelayMillis` the epoch
 * interval, so neither of the two changes anything unless it is lowered.
 *
 * @category defaults
 * @since 0.1.0
 */
export const controlDefaults: ControlSurface = {
  mode: "auto",
  laneCount: undefined,
  helperLaneBudget: 0,
  maxBatchBytes: 4 * 1024 * 1024,
  maxFlushDelayMillis: 10,
  shadowComparePerMille: 2
}

/**
 * What the environment starts from: {@link controlDefaults} in mode `conservative`.
 *
 * @category defaults
 * @since 0.1.0
 */
export const environmentDefaults: ControlSurface = { ...controlDefaults, mode: "conservative" }

/**
 * The variables that {@link controlFromConfig} reads.
 *
 * @category models
 * @since 0.1.0
 */
export const controlVariables = {
  mode: "FSQLITE_PARALLEL_WAL_MODE",
  laneCount: "FSQLITE_PARALLEL_WAL_LANES",
  maxBatchBytes: "FSQLITE_PARALLEL_WAL_MAX_BATCH_BYTES",
  maxFlushDelayMillis: "FSQLITE_PARALLEL_WAL_MAX_FLUSH_DELAY_MS",
  shadowComparePerMille: "FSQLITE_PARALLEL_WAL_SHADOW_COMPARE_PER_MILLE"
} as const

/**
 * A variable of {@link controlVariables}.
 *
 * @category models
 * @since 0.1.0
 */
export type ControlVariable = (typeof controlVariables)[keyof typeof controlVariables]

const maxPerMille = 1000

const modes: ReadonlyMap<string, ParallelWalMode> = new Map([
  ["auto", "auto"],
  ["conservative", "conservative"],
  ["serialized", "conservative"],
  ["single_lane", "conservative"],
  ["shadow", "shadow_compare"],
  ["shadow_compare", "shadow_compare"]
])

/** A whole number in decimal digits. What no `number` holds exactly counts as the largest one that it does hold. */
const parseCount = (text: string): number | undefined =>
  /^\+?[0-9]+$/.test(text) ? Math.min(Number(text), Number.MAX_SAFE_INTEGER) : undefined

/**
 * Reads the control surface out of the values of {@link controlVariables}. Never fails: each value that could not be
 * read is named by one sentence in `warnings`, and its default stays.
 *
 * **Example** (Reading values)
 *
 * ```ts
 * import { parseControl } from "@tidemark/wal/ParallelWalControl"
 *
 * const values = new Map([["FSQLITE_PARALLEL_WAL_MODE", " Shadow "], ["FSQLITE_PARALLEL_WAL_LANES", "many"]])
 * const { control, warnings } = parseControl((name) => values.get(name))
 * control.mode // => "shadow_compare"
 * control.laneCount // => undefined
 * warnings.length // => 1
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const parseControl = (
  valueOf: (name: ControlVariable) => string | undefined
): { readonly control: ControlSurface; readonly warnings: ReadonlyArray<string> } => {
  const warnings: Array<string> = []
  const read = <A>(
    name: ControlVariable,
    expected: string,
    byDefault: A,
    parse: (text: string) => A | undefined
  ): A => {
    const value = valueOf(name)
    const text = value?.trim() ?? ""
    if (text === "") return byDefault
    const parsed = parse(text)
    if (parsed !== undefined) return parsed
    warnings.push(`${name} is ${JSON.stringify(value)}, not ${expected}: ignored`)
    return byDefault
  }
  const count = <A>(name: ControlVariable, byDefault: A, minimum: number, maximum = Number.MAX_SAFE_INTEGER) =>
    read<A | number>(name, "a whole number", byDefault, (text) => {
      const parsed = parseCount(text)
      return parsed === undefined ? undefined : Math.min(Math.max(parsed, minimum), maximum)
    })
  const { laneCount, maxBatchBytes, maxFlushDelayMillis, mode, shadowComparePerMille } = controlVariables
  const control: ControlSurface = {
    mode: read(
      mode,
      "auto, conservative or shadow_compare",
      environmentDefaults.mode,
      (text) => modes.get(text.toLowerCase())
    ),
    laneCount: count(laneCount, environmentDefaults.laneCount, 1),
    helperLaneBudget: environmentDefaults.helperLaneBudget,
    maxBatchBytes: count(maxBatchBytes, environmentDefaults.maxBatchBytes, 1),
    maxFlushDelayMillis: count(maxFlushDelayMillis, environmentDefaults.maxFlushDelayMillis, 0),
    shadowComparePerMille: count(shadowComparePerMille, environmentDefaults.shadowComparePerMille, 0, maxPerMille)
  }
  return { control, warnings }
}

/**
 * The control surface of the environment (of the current `ConfigProvider`), with a logged warning for each variable
 * that could not be read. Fails only when the provider itself does.
 *
 * @category constructors
 * @since 0.1.0
 */
export const controlFromConfig: Effect.Effect<ControlSurface, Config.ConfigError> = Effect.gen(function*() {
  const values = new Map<ControlVariable, string>()
  for (const name of Object.values(controlVariables)) {
    const value = yield* Config.option(Config.String(name))
    if (Option.isSome(value)) values.set(name, value.value)
  }
  const { control, warnings } = parseControl((name) => values.get(name))
  for (const warning of warnings) yield* Effect.logWarning(warning)
  return control
})
