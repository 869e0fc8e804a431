import { assert, describe, it } from "@effect/vitest"
import { parseProcStat, ProcessLiveness, type ProcStat } from "@tidemark/platform/ProcessLiveness"
import { Effect, Schedule } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import * as NodeFs from "node:fs"
import { Writable } from "node:stream"

const isLinux = process.platform === "linux"

const started = (command: string, args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => spawn(command, args, { stdio: ["ignore", "pipe", "inherit", "pipe"] })),
    (child) => Effect.sync(() => child.kill("SIGKILL"))
  )

const pidOf = (child: ChildProcess) => child.pid ?? 0

const firstLine = (child: ChildProcess) =>
  Effect.promise(async () => {
    const stdout = child.stdout
    return stdout === null ? "" : String((await once(stdout, "data"))[0]).trim()
  })

const statLine = (pid: number) => Effect.sync(() => NodeFs.readFileSync(`/proc/${pid}/stat`, "latin1"))

/** The system says nothing when a process changes: it has to be asked again. */
const eventually = (pid: number, isReached: (line: string) => boolean): Effect.Effect<void> =>
  statLine(pid).pipe(
    Effect.flatMap((line) => isReached(line) ? Effect.void : Effect.fail("not yet")),
    Effect.retry(Schedule.spaced("2 millis")),
    Effect.orDie
  )

describe("parseProcStat", () => {
  const behindName = "S 1 2 3 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 11 0 188165 1000 200 18446744073709551615"

  it("SHM-13 the name may contain parentheses and blanks", () => {
    for (const name of ["node", ") Z 9 (", "a b", "((", "))", ""]) {
      assert.deepStrictEqual(parseProcStat(`42 (${name}) ${behindName}\n`), { state: "S", birth: 188_165n }, name)
    }
  })

  it("what is not such a line says nothing", () => {
    for (const text of ["", "42", "42 (node)", "42 (node) S 1 2", "42 (node) 9 " + behindName.slice(2)]) {
      assert.isUndefined(parseProcStat(text), text)
    }
  })
})

describe("ProcessLiveness", () => {
  it.effect("SHM-13 this process lives, pid 0 is nobody, and so is a group", () =>
    Effect.gen(function*() {
      const { isAlive, self } = yield* ProcessLiveness
      assert.strictEqual(self.pid, process.pid)
      assert.isTrue(yield* isAlive(self))
      assert.isFalse(yield* isAlive({ pid: 0, birth: 0n }))
      assert.isFalse(yield* isAlive({ pid: -process.pid, birth: 0n }))
    }).pipe(Effect.provide(ProcessLiveness.layer)))

  it.effect("SHM-13 a child lives until it is killed and waited for", () =>
    Effect.gen(function*() {
      const { isAlive } = yield* ProcessLiveness
      const child = yield* started(process.execPath, ["-e", "setInterval(() => {}, 1000)"])
      assert.isTrue(yield* isAlive({ pid: pidOf(child), birth: 0n }))
      const exited = once(child, "exit")
      child.kill("SIGKILL")
      yield* Effect.promise(() => exited)
      assert.isFalse(yield* isAlive({ pid: pidOf(child), birth: 0n }))
    }).pipe(Effect.provide(ProcessLiveness.layer)))

  it.effect.runIf(isLinux)(
    "SHM-13 who has the pid of a dead process, but another birth, is not it",
    () =>
      Effect.gen(function*() {
        const { isAlive, self } = yield* ProcessLiveness
        assert.isTrue(self.birth > 0n)
        assert.isFalse(yield* isAlive({ pid: self.pid, birth: self.birth - 1n }))
        assert.isFalse(yield* isAlive({ pid: self.pid, birth: self.birth + 1n }))
        assert.isTrue(yield* isAlive({ pid: self.pid, birth: 0n }))
      }).pipe(Effect.provide(ProcessLiveness.layer))
  )

  it.effect.runIf(isLinux)(
    "SHM-13 the birth of a child is its own, whatever it calls itself",
    () =>
      Effect.gen(function*() {
        const { isAlive, self } = yield* ProcessLiveness
        const child = yield* started(process.execPath, [
          "-e",
          `process.title = ") Z 9 ("; console.log("renamed"); setInterval(() => {}, 1000)`
        ])
        assert.strictEqual(yield* firstLine(child), "renamed")
        const line = yield* statLine(pidOf(child))
        assert.include(line, "() Z 9 ()")
        const birth = parseProcStat(line)?.birth ?? 0n
        assert.isTrue(birth >= self.birth)
        assert.isTrue(yield* isAlive({ pid: pidOf(child), birth }))
      }).pipe(Effect.provide(ProcessLiveness.layer))
  )

  it.live.runIf(isLinux)(
    "SHM-13 a zombie is dead, although it can still be sent signals",
    () =>
      Effect.gen(function*() {
        const { isAlive } = yield* ProcessLiveness
        // The shell becomes a program that does not know that it has a child, and never waits for it. The child ends when
        // its input does, which is after that.
        const parent = yield* started("sh", ["-c", "cat <&3 >/dev/null & echo $!; exec sleep 60"])
        const pid = Number(yield* firstLine(parent))
        yield* eventually(pidOf(parent), (line) => line.includes("(sleep)"))
        const input = parent.stdio[3]
        assert.instanceOf(input, Writable)
        input.end()
        yield* eventually(pid, (line) => parseProcStat(line)?.state === "Z")
        assert.isTrue(process.kill(pid, 0))
        assert.isFalse(yield* isAlive({ pid, birth: 0n }))
      }).pipe(Effect.provide(ProcessLiveness.layer))
  )

  it.effect("SHM-13 a process that cannot be looked at lives unless the kernel knows no such process", () =>
    Effect.gen(function*() {
      const answers = { 2: undefined, 3: "EPERM", 4: "ESRCH" } as Record<number, string | undefined>
      const { isAlive, self } = yield* ProcessLiveness.pipe(
        Effect.provide(ProcessLiveness.layerQuestions({
          stat: (): ProcStat | undefined => undefined,
          signalCode: (pid) => answers[pid]
        }))
      )
      assert.strictEqual(self.birth, 0n)
      assert.isTrue(yield* isAlive({ pid: 2, birth: 7n }))
      assert.isTrue(yield* isAlive({ pid: 3, birth: 7n }))
      assert.isFalse(yield* isAlive({ pid: 4, birth: 7n }))
    }))

  it.effect("SHM-13 the kernel answers EPERM or nothing for the first process, which lives", () =>
    Effect.gen(function*() {
      const { isAlive } = yield* ProcessLiveness
      assert.isTrue(yield* isAlive({ pid: 1, birth: 0n }))
    }).pipe(Effect.provide(ProcessLiveness.layer)))

  it.effect("a test makes up its processes", () =>
    Effect.gen(function*() {
      const living = new Set([7])
      const self = { pid: 7, birth: 70n }
      const { isAlive } = yield* ProcessLiveness.pipe(
        Effect.provide(ProcessLiveness.layerTest({ self, isAlive: ({ pid }) => living.has(pid) }))
      )
      assert.isTrue(yield* isAlive(self))
      living.delete(7)
      assert.isFalse(yield* isAlive(self))
      living.add(0)
      assert.isFalse(yield* isAlive({ pid: 0, birth: 0n }))
      const byDefault = yield* ProcessLiveness.pipe(Effect.provide(ProcessLiveness.layerTest({ self })))
      assert.isTrue(yield* byDefault.isAlive(self))
      assert.isFalse(yield* byDefault.isAlive({ ...self, birth: 71n }))
    }))
})
