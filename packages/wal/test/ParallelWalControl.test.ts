import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Logger } from "effect"
import fc from "fast-check"
import {
  controlDefaults,
  controlFromConfig,
  controlVariables,
  environmentDefaults,
  parseControl
} from "../src/ParallelWalControl.ts"

const names = controlVariables

/** What the environment says, and what was warned about. */
const readEnvironment = (environment: Record<string, string>) => {
  const warnings: Array<string> = []
  const logger = Logger.make(({ logLevel, message }) => {
    warnings.push(`${logLevel}: ${Array.isArray(message) ? message.join(" ") : String(message)}`)
  })
  return controlFromConfig.pipe(
    Effect.map((control) => ({ control, warnings })),
    Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromEnvRecord(environment)),
    Effect.provide(Logger.layer([logger]))
  )
}

describe("ParallelWalControl", () => {
  it.effect("PW the constructor starts from auto, the environment from conservative", () =>
    Effect.gen(function*() {
      assert.strictEqual(controlDefaults.mode, "auto")
      const { control, warnings } = yield* readEnvironment({})
      assert.deepStrictEqual(control, { ...controlDefaults, mode: "conservative" })
      assert.deepStrictEqual(warnings, [])
    }))

  it.effect("PW reads every variable of the environment", () =>
    Effect.gen(function*() {
      const { control, warnings } = yield* readEnvironment({
        FSQLITE_PARALLEL_WAL_MODE: "auto",
        FSQLITE_PARALLEL_WAL_LANES: "6",
        FSQLITE_PARALLEL_WAL_MAX_BATCH_BYTES: "65536",
        FSQLITE_PARALLEL_WAL_MAX_FLUSH_DELAY_MS: "3",
        FSQLITE_PARALLEL_WAL_SHADOW_COMPARE_PER_MILLE: "250"
      })
      assert.deepStrictEqual(control, {
        mode: "auto",
        laneCount: 6,
        helperLaneBudget: controlDefaults.helperLaneBudget,
        maxBatchBytes: 65_536,
        maxFlushDelayMillis: 3,
        shadowComparePerMille: 250
      })
      assert.deepStrictEqual(warnings, [])
    }))

  it("PW trims the mode and ignores its case", () => {
    const modeOf = (value: string) => {
      const { control, warnings } = parseControl((name) => name === names.mode ? value : undefined)
      // An unknown name would be conservative too, but not without a warning.
      assert.deepStrictEqual(warnings, [], value)
      return control.mode
    }
    for (const value of ["auto", " AUTO ", "\tAuto\n"]) assert.strictEqual(modeOf(value), "auto", value)
    for (const value of ["conservative", "Serialized", " SINGLE_LANE"]) {
      assert.strictEqual(modeOf(value), "conservative", value)
    }
    for (const value of ["shadow", "Shadow_Compare "]) assert.strictEqual(modeOf(value), "shadow_compare", value)
  })

  it.effect("PW a mode that does not exist leaves the default and is warned about", () =>
    Effect.gen(function*() {
      const { control, warnings } = yield* readEnvironment({ [names.mode]: "paralel" })
      assert.strictEqual(control.mode, environmentDefaults.mode)
      assert.deepStrictEqual(warnings, [
        `Warn: ${names.mode} is "paralel", not auto, conservative or shadow_compare: ignored`
      ])
    }))

  it("PW holds numbers within their limits", () => {
    const read = (name: string, value: string) => parseControl((asked) => asked === name ? value : undefined).control
    assert.strictEqual(read(names.laneCount, "0").laneCount, 1)
    assert.strictEqual(read(names.laneCount, " 12 ").laneCount, 12)
    assert.strictEqual(read(names.maxBatchBytes, "0").maxBatchBytes, 1)
    assert.strictEqual(read(names.maxFlushDelayMillis, "0").maxFlushDelayMillis, 0)
    assert.strictEqual(read(names.shadowComparePerMille, "1000").shadowComparePerMille, 1000)
    assert.strictEqual(read(names.shadowComparePerMille, "1001").shadowComparePerMille, 1000)
    assert.strictEqual(read(names.shadowComparePerMille, "9".repeat(400)).shadowComparePerMille, 1000)
    assert.strictEqual(read(names.maxBatchBytes, "9".repeat(400)).maxBatchBytes, Number.MAX_SAFE_INTEGER)
  })

  it.effect("PW ignores a number that cannot be read, with a warning that names it", () =>
    Effect.gen(function*() {
      for (
        const name of [names.laneCount, names.maxBatchBytes, names.maxFlushDelayMillis, names.shadowComparePerMille]
      ) {
        for (const value of ["many", "-1", "1.5", "1e3", "0x10", "4 MiB"]) {
          const { control, warnings } = yield* readEnvironment({ [name]: value })
          assert.deepStrictEqual(control, environmentDefaults, `${name}=${value}`)
          assert.deepStrictEqual(warnings, [
            `Warn: ${name} is ${JSON.stringify(value)}, not a whole number: ignored`
          ])
        }
      }
    }))

  it.effect("PW an empty value counts as not set", () =>
    Effect.gen(function*() {
      for (const name of Object.values(names)) {
        for (const value of ["", "  "]) {
          assert.deepStrictEqual(yield* readEnvironment({ [name]: value }), {
            control: environmentDefaults,
            warnings: []
          })
        }
      }
    }))

  it("PW answers a usable surface whatever the environment says", () => {
    fc.assert(
      fc.property(fc.array(fc.option(fc.oneof(fc.string(), fc.integer().map(String))), { maxLength: 5 }), (values) => {
        const order: ReadonlyArray<string> = Object.values(names)
        const { control } = parseControl((name) => values[order.indexOf(name)] ?? undefined)
        assert.include(["auto", "conservative", "shadow_compare"], control.mode)
        assert.isTrue(control.laneCount === undefined || control.laneCount >= 1)
        assert.isAtLeast(control.maxBatchBytes, 1)
        assert.isAtLeast(control.maxFlushDelayMillis, 0)
        assert.isAtMost(control.shadowComparePerMille, 1000)
        assert.isAtLeast(control.shadowComparePerMille, 0)
      })
    )
  })
})
