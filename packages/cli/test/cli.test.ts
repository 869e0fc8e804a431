import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { makeDatabase } from "./support/databases.ts"
import {
  assertFailed,
  assertWrongUsage,
  mainPath,
  runCommand,
  temporaryDirectory,
  tidemark
} from "./support/program.ts"

describe("the program", () => {
  it.effect("answers wrong usage with one sentence and code 2, and help and version with code 0", () =>
    Effect.gen(function*() {
      assertWrongUsage(yield* tidemark(), /a command is missing/)
      assertWrongUsage(yield* tidemark("frobnicate", "--json"), /frobnicate/)
      assertWrongUsage(yield* tidemark("inspect", "--json"), /FILE/)
      assertWrongUsage(yield* tidemark("verify", "a.db", "--no-such-flag"), /--no-such-flag/)
      assertWrongUsage(yield* tidemark("checkpoint", "a.db", "--mode", "eager", "--json"), /"eager"/)
      assertWrongUsage(yield* tidemark("verify", "", "--json"), /DB-or-DIR.*a path that is not empty/)
      assertWrongUsage(yield* tidemark("inspect", "a.db", "--from=-1"), /: --from -1 is no range of records/)
      assertWrongUsage(yield* tidemark("inspect", "a.db", "--from", "5", "--to", "3"), /--from 5 --to 3 is no range/)
      assertWrongUsage(
        yield* tidemark("inspect", "a.db", "--from", "18446744073709551615"),
        /expected an integer of at most 9007199254740991/
      )
      const help = yield* tidemark("--help")
      assert.strictEqual(help.code, 0)
      for (const command of ["demo", "inspect", "verify", "recover", "checkpoint", "replay", "bench"]) {
        assert.include(help.stdout, command)
      }
      assert.notInclude(help.stdout, "demo-writer")
      const version = yield* tidemark("--version")
      assert.match(version.stdout, /^tidemark \d+\.\d+\.\d+\n$/)
    }))

  it.effect("calls a defect a bug, without a stack trace", () =>
    Effect.gen(function*() {
      const directory = yield* temporaryDirectory
      const { wal } = makeDatabase(directory, "a")
      const break_ =
        "data:text/javascript,DataView.prototype.getUint32 = () => { throw new TypeError('broken on purpose') }"
      const ended = yield* runCommand(process.execPath, ["--import", break_, mainPath, "inspect", wal, "--json"])
      assertFailed(ended, "Defect", /this is a bug in Tidemark \(broken on purpose\); please report it/)
    }))
})
