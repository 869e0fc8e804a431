/**
 * Forks publishers to be killed: processes that cost a millisecond instead of a second, because what a program needs to
 * begin is there already.
 *
 *     node --single-threaded --v8-pool-size=0 headerForks.ts DIRECTORY COUNT
 *
 * opens COUNT headers and obeys, a line each: `fork INDEX COMMIT` makes a process that takes the kernel's lock on the
 * right to publish in that header, through an opening of its own, names itself in the owner word, and publishes COMMIT + 1,
 * COMMIT + 2 and so on by the publisher's own function until it is killed. The answer is its pid. `reap` waits until that
 * one is dead and answers by which signal.
 *
 * A forked process has the thread only that forked it. It needs no other: the engine is told to do all of its work on that
 * one, everything a child does is synchronous, and a child ends with its parent. Node asks the kernel to leave the
 * engine's memory out of a fork; that is taken back before each. A child that nevertheless misses some is gone by SIGSEGV.
 */
import { fromPublisherWord, offsets, toPublisherWord } from "@tidemark/coordinator/SharedHeaderFormat"
import { regionOf, type SharedRegion } from "@tidemark/platform/SharedMemory"
import { leasePath } from "@tidemark/wal/LeaseFormat"
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import { openSync, readFileSync, readSync, writeSync } from "node:fs"
import { createRequire } from "node:module"
import { constants } from "node:os"
import { writeWindow } from "../../src/internal/headerWindow.ts"
import { databaseAt, machine, openHeader } from "../support/headerFiles.ts"
import { stateAt } from "../support/headerStates.ts"

const [directory = "", count = "1"] = process.argv.slice(2)

interface Libc {
  readonly func: (prototype: string) => (...args: ReadonlyArray<unknown>) => number
}

// The platform's own way to the system's functions; what `require` answers is untyped.
const { load } = createRequire(import.meta.resolve("@tidemark/platform/SharedMemory"))("koffi") as {
  readonly load: (library: null) => Libc
}
const libc = load(null)
const fork = libc.func("int fork()")
const waitpid = libc.func("int waitpid(int pid, _Out_ int *status, int options)")
const getpid = libc.func("int getpid()")
const prctl = libc.func("int prctl(int option, unsigned long argument)")
const madvise = libc.func("int madvise(uint64_t address, uint64_t length, int advice)")
const fcntl = libc.func("int fcntl(int descriptor, int command, _Inout_ void *argument)")

const say = (line: string) => {
  writeSync(1, `${line}\n`)
}

/** `F_OFD_SETLK`, exclusive, byte 64, one byte: the right to publish. */
const lock = (database: string) => {
  const flock = new DataView(new ArrayBuffer(32))
  flock.setInt16(0, 1, true)
  flock.setBigInt64(8, 64n, true)
  flock.setBigInt64(16, 1n, true)
  if (fcntl(openSync(leasePath(database), "r+"), 37, new Uint8Array(flock.buffer)) !== 0) {
    throw new Error("somebody else publishes")
  }
}

/** Everything private goes along. New memory comes while this runs, so it runs twice. */
const inheritMemory = () => {
  const doFork = 11
  for (let pass = 0; pass < 2; pass++) {
    for (const [, from = "", to = ""] of readFileSync("/proc/self/maps", "latin1").matchAll(/^(\w+)-(\w+) .{3}p/gm)) {
      const start = Number.parseInt(from, 16)
      madvise(start, Number.parseInt(to, 16) - start, doFork)
    }
  }
}

const publishOn = (region: SharedRegion, first: number, windows: number) => {
  for (let commit = first + 1; commit <= first + windows; commit++) writeWindow(region, stateAt(commit))
}

/** Until it is killed. */
const publish = (index: number, region: SharedRegion, first: number): never => {
  const pdeathsig = 1
  prctl(pdeathsig, constants.signals.SIGKILL)
  lock(databaseAt(directory, index))
  // Node's own `process.pid` is that of the parent.
  const { generation } = fromPublisherWord(region.load(offsets.publisherOwner))
  region.store(
    offsets.publisherOwner,
    toPublisherWord({ pid: getpid(), generation: generation + 1, isInitializing: false })
  )
  for (let commit = first;; commit += 1000) publishOn(region, commit, 1000)
}

/** The next line, or `undefined` at the end. */
const nextLine = (): string | undefined => {
  const byte = new Uint8Array(1)
  let line = ""
  while (readSync(0, byte) === 1) {
    if (byte[0] === 10) return line
    line += String.fromCharCode(byte[0] ?? 0)
  }
  return undefined
}

const regions = await Effect.runPromise(
  Effect.forEach(Array.from({ length: Number(count) }, (_, index) => databaseAt(directory, index)), openHeader).pipe(
    Effect.map((headers) => headers.map((header) => header.region())),
    Effect.provide(machine),
    // Open until this process ends.
    Scope.provide(Scope.makeUnsafe())
  )
)
// Compiled before the first fork, so that no child spends its life on that.
publishOn(regionOf("nobody's", new SharedArrayBuffer(65_536)), 0, 300_000)
say("ready")
let child = 0
for (let line = nextLine(); line !== undefined; line = nextLine()) {
  const [command, index, first] = line.split(" ")
  if (command === "fork") {
    const region = regions[Number(index)]
    if (region === undefined) throw new Error(`there is no header ${index}`)
    inheritMemory()
    child = fork()
    if (child === 0) publish(Number(index), region, Number(first))
    say(`${child}`)
  } else {
    const status = [0]
    if (waitpid(child, status, 0) !== child) throw new Error(`process ${child} cannot be waited for`)
    say(`${(status[0] ?? 0) & 0x7f}`)
  }
}
process.exit(0)
