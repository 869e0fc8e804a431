import { assert, describe, it } from "@effect/vitest"
import * as CoordinatorLease from "@tidemark/coordinator/CoordinatorLease"
import * as MemoryVfs from "@tidemark/platform/MemoryVfs"
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import { ProcessLiveness } from "@tidemark/platform/ProcessLiveness"
import { Vfs } from "@tidemark/platform/Vfs"
import * as LeaseFormat from "@tidemark/wal/LeaseFormat"
import { Clock, ConfigProvider, Context, Effect, Exit, Layer, Logger, Result, Scope } from "effect"
import { TestClock } from "effect/testing"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { temporaryDirectory } from "./support/temporaryDirectory.ts"

type Lease = CoordinatorLease.CoordinatorLease["Service"]

/** What is logged while the effect runs, as `"Info: message"`. */
const collectLogs = () => {
  const lines: Array<string> = []
  const layer = Logger.layer([
    Logger.make(({ logLevel, message }) => {
      lines.push(`${logLevel}: ${Array.isArray(message) ? message.join(" ") : String(message)}`)
    })
  ])
  return { lines, layer }
}

/** Acquires in a scope of its own. */
const acquireIn = Effect.fnUntraced(function*(lease: Lease) {
  const scope = yield* Scope.make()
  const grant = yield* lease.acquire.pipe(Scope.provide(scope))
  return { grant, close: Scope.close(scope, Exit.void) }
})

/** A clock that behaves like another one but for the given parts. */
const clockLike = (clock: Clock.Clock, parts: Partial<Clock.Clock>): Clock.Clock => ({
  currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
  currentTimeMillis: clock.currentTimeMillis,
  currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
  currentTimeNanos: clock.currentTimeNanos,
  monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
  monotonicTimeNanos: clock.monotonicTimeNanos,
  sleep: (duration) => clock.sleep(duration),
  ...parts
})

/** The same, by a holder that never gets to renew: its clock tells the time, but its sleeps do not end. */
const acquireAndHang = Effect.fnUntraced(function*(lease: Lease) {
  const hung = clockLike(yield* Clock.Clock, { sleep: () => Effect.never })
  return yield* acquireIn(lease).pipe(Effect.provideService(Clock.Clock, hung))
})

/** The refusal of an acquisition. */
const refusedBy = (lease: Lease) => Effect.flip(Effect.scoped(lease.acquire))

describe("CoordinatorLease.layerMemory", () => {
  /** Two rivals for one lease, as processes 11 and 22. */
  const rivals = Effect.gen(function*() {
    const registry = CoordinatorLease.makeLeaseRegistry()
    const build = (pid: number) =>
      Effect.map(
        Layer.build(CoordinatorLease.layerMemory({ name: "app.db", registry, holder: { pid, birth: BigInt(pid) } })),
        (context) => Context.get(context, CoordinatorLease.CoordinatorLease)
      )
    return { first: yield* build(11), second: yield* build(22) }
  })

  it.effect("CO-08 one holder: a second one gets LeaseHeld with the holder", () =>
    Effect.gen(function*() {
      const { first, second } = yield* rivals
      yield* TestClock.adjust("1 second")
      const { close, grant } = yield* acquireIn(first)
      assert.isTrue(grant.isCurrent())
      const refused = yield* refusedBy(second)
      assert.strictEqual(refused._tag, "LeaseHeld")
      const contents = { pid: 11, birth: 11n, generation: 1n, acquiredUnixMillis: 1000, expiresUnixMillis: 6000 }
      assert.deepInclude(refused, { name: "app.db", holder: contents, isOverdue: false })
      assert.include(refused.message, "process 11")
      assert.strictEqual((yield* refusedBy(first))._tag, "LeaseHeld")
      assert.deepStrictEqual(yield* second.holder, contents)

      yield* close
      assert.isFalse(grant.isCurrent())
      assert.isUndefined(yield* first.holder)
      const next = yield* acquireIn(second)
      assert.strictEqual(next.grant.generation, 2n)
      assert.isFalse(grant.isCurrent())
    }))

  it.effect("CO-08 the holder renews it as long as its scope is open", () =>
    Effect.gen(function*() {
      const { first, second } = yield* rivals
      const { grant } = yield* acquireIn(first)
      for (let second_ = 0; second_ < 30; second_++) {
        yield* TestClock.adjust("1 second")
        assert.isTrue(grant.isCurrent())
      }
      yield* TestClock.adjust("30 seconds")
      assert.isTrue(grant.isCurrent())
      assert.strictEqual((yield* refusedBy(second))._tag, "LeaseHeld")
      const holder = yield* second.holder
      assert.strictEqual(holder?.acquiredUnixMillis, 0)
      assert.isAbove(holder?.expiresUnixMillis ?? 0, 60_000)
    }))

  it.effect("CO-08 a lease that is not renewed can be taken over at exactly expires <= now", () =>
    Effect.gen(function*() {
      const logs = collectLogs()
      yield* Effect.gen(function*() {
        const { first, second } = yield* rivals
        const hung = yield* acquireAndHang(first)
        yield* TestClock.adjust(4999)
        assert.isTrue(hung.grant.isCurrent())
        assert.strictEqual((yield* refusedBy(second))._tag, "LeaseHeld")

        yield* TestClock.adjust(1)
        assert.isFalse(hung.grant.isCurrent(), "it may not append any more, taken over or not")
        assert.isUndefined(yield* first.holder)
        const { grant } = yield* acquireIn(second)
        assert.strictEqual(grant.generation, 2n)
        assert.isTrue(grant.isCurrent())
        assert.isFalse(hung.grant.isCurrent())

        assert.strictEqual((yield* Effect.flip(first.release(hung.grant)))._tag, "LeaseNotHeld")
        yield* hung.close
        assert.isTrue(grant.isCurrent(), "the end of the loser does not release the winner")
        assert.deepStrictEqual((yield* first.holder)?.pid, 22)
      }).pipe(Effect.provide(logs.layer))
      assert.deepStrictEqual(logs.lines, [
        "Info: acquired the coordinator lease of app.db (generation 1)",
        "Info: took over the coordinator lease of app.db (generation 2) from process 11, which had not renewed it"
      ])
    }))

  it.effect("CO-08 who wakes up after the expiry has lost the lease for good, and says so", () =>
    Effect.gen(function*() {
      const logs = collectLogs()
      yield* Effect.gen(function*() {
        const { first } = yield* rivals
        const clock = yield* Clock.Clock
        let late = 0
        // As after an event loop that was blocked: the time is later than that of the sleep that ends.
        const lateClock = clockLike(clock, { currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe() + late })
        const { grant } = yield* acquireIn(first).pipe(Effect.provideService(Clock.Clock, lateClock))
        late = 5000
        yield* TestClock.adjust("10 seconds")
        late = -60_000
        assert.isTrue(grant.isCurrent(), "the expiry has not been moved")
        late = 0
        assert.isFalse(grant.isCurrent())
        yield* TestClock.adjust("10 seconds")
        assert.isFalse(grant.isCurrent())
      }).pipe(Effect.provide(logs.layer))
      assert.deepStrictEqual(logs.lines, [
        "Info: acquired the coordinator lease of app.db (generation 1)",
        "Warn: the coordinator lease of app.db (generation 1) is lost"
      ])
    }))

  it.effect("CO-07 CO-08 release by another is refused, and a second time too", () =>
    Effect.gen(function*() {
      const { first, second } = yield* rivals
      const { grant } = yield* acquireIn(first)
      const refused = yield* Effect.flip(second.release(grant))
      assert.deepInclude(refused, { _tag: "LeaseNotHeld", name: "app.db", generation: 1n })
      assert.strictEqual((yield* Effect.flip(first.release({ ...grant })))._tag, "LeaseNotHeld")
      assert.isTrue(grant.isCurrent())
      yield* first.release(grant)
      assert.isFalse(grant.isCurrent())
      assert.strictEqual((yield* Effect.flip(first.release(grant)))._tag, "LeaseNotHeld")
    }))

  it.effect("CO-08 a forced release ends whoever holds it", () =>
    Effect.gen(function*() {
      const logs = collectLogs()
      yield* Effect.gen(function*() {
        const { first, second } = yield* rivals
        yield* second.forceRelease
        const { close, grant } = yield* acquireIn(first)
        yield* second.forceRelease
        assert.isFalse(grant.isCurrent())
        assert.isUndefined(yield* second.holder)
        const next = yield* acquireIn(second)
        assert.strictEqual(next.grant.generation, 2n)
        yield* close
        assert.isTrue(next.grant.isCurrent())
        yield* next.close
      }).pipe(Effect.provide(logs.layer))
      assert.deepStrictEqual(logs.lines, [
        "Info: acquired the coordinator lease of app.db (generation 1)",
        "Info: forced the release of the coordinator lease of app.db (generation 1)",
        "Info: acquired the coordinator lease of app.db (generation 2)",
        "Info: released the coordinator lease of app.db (generation 2)"
      ])
    }))

  it.effect("CO-08 leases of one name in one process are one lease, others are not", () =>
    Effect.gen(function*() {
      const build = (name: string) =>
        Effect.map(
          Layer.build(CoordinatorLease.layerMemory({ name })),
          (context) => Context.get(context, CoordinatorLease.CoordinatorLease)
        )
      const [one, same, other] = [yield* build("shared"), yield* build("shared"), yield* build("other")]
      yield* one.acquire
      const refused = yield* refusedBy(same)
      assert.strictEqual(refused._tag === "LeaseHeld" ? refused.holder?.pid : undefined, process.pid)
      assert.isTrue((yield* other.acquire).isCurrent())
    }))

  it.effect("durations out of range are refused", () =>
    Effect.gen(function*() {
      for (const duration of ["99 millis", "2 hours", "Infinity"] as const) {
        const exit = yield* Effect.exit(Layer.build(CoordinatorLease.layerMemory({ name: "x", duration })))
        assert.isTrue(Exit.hasDies(exit), duration)
      }
    }))
})

describe("CoordinatorLease.layerFile", () => {
  const database = "/app.db"
  const path = LeaseFormat.leasePath(database)

  /** A process on the disk, with its lease service and its identity. */
  const start = Effect.fnUntraced(function*(disk: MemoryVfs.MemoryDisk) {
    const context = yield* Layer.build(
      CoordinatorLease.layerFile({ database }).pipe(Layer.provideMerge(MemoryVfs.layerDisk(disk)))
    )
    return {
      lease: Context.get(context, CoordinatorLease.CoordinatorLease),
      vfs: Context.get(context, Vfs),
      self: Context.get(context, ProcessLiveness).self
    }
  })
  const contentsOn = (disk: MemoryVfs.MemoryDisk) =>
    Result.getOrThrow(LeaseFormat.decode(disk.readFile(path) ?? new Uint8Array()))
  const makeDisk = Effect.sync(() => MemoryVfs.MemoryDisk.make({ async: false }))

  it.effect("CO-08 one holder: a second process gets LeaseHeld with the holder, also long after the expiry", () =>
    Effect.gen(function*() {
      const disk = yield* makeDisk
      const [first, second] = [yield* start(disk), yield* start(disk)]
      const { close, grant } = yield* acquireAndHang(first.lease)
      assert.strictEqual(grant.generation, 1n)
      const contents = { ...first.self, generation: 1n, acquiredUnixMillis: 0, expiresUnixMillis: 5000 }
      assert.deepStrictEqual(contentsOn(disk), contents)
      yield* TestClock.adjust(4999)
      const refused = yield* refusedBy(second.lease)
      assert.deepInclude(refused, { _tag: "LeaseHeld", holder: contents, isOverdue: false })
      assert.deepStrictEqual(yield* second.lease.holder, contents)

      yield* TestClock.adjust(1)
      const overdue = yield* refusedBy(second.lease)
      assert.deepInclude(overdue, { _tag: "LeaseHeld", holder: contents, isOverdue: true })
      assert.include(overdue.message, "not renewed it in time")
      assert.isTrue(grant.isCurrent(), "the kernel's lock cannot expire")
      assert.strictEqual((yield* refusedBy(first.lease))._tag, "LeaseHeld")

      yield* close
      assert.isFalse(grant.isCurrent())
      assert.isUndefined(yield* first.lease.holder)
      assert.strictEqual((yield* acquireIn(second.lease)).grant.generation, 2n)
    }))

  it.effect("CO-08 the holder renews the contents in place, without another file and without a sync", () =>
    Effect.gen(function*() {
      const disk = yield* makeDisk
      const first = yield* start(disk)
      const { grant } = yield* acquireIn(first.lease)
      const inode = (yield* first.vfs.identify(path))?.inode
      const trace = disk.record()
      yield* TestClock.adjust("20 seconds")
      assert.isTrue(grant.isCurrent())
      const { acquiredUnixMillis, expiresUnixMillis, generation } = contentsOn(disk)
      assert.strictEqual(generation, 1n)
      assert.strictEqual(acquiredUnixMillis, 0)
      assert.isAbove(expiresUnixMillis, 23_000)
      assert.strictEqual((yield* first.vfs.identify(path))?.inode, inode)
      assert.isAtLeast(trace.steps.length, 11)
      assert.isTrue(trace.steps.every((step) => step.kind === "write" && step.path === path))
    }))

  it.effect("CO-08 a process that dies loses it at once, and its successor has a larger generation", () =>
    Effect.gen(function*() {
      const logs = collectLogs()
      yield* Effect.gen(function*() {
        const disk = yield* makeDisk
        const [first, second] = [yield* start(disk), yield* start(disk)]
        yield* acquireIn(first.lease)
        disk.kill(first.self)
        assert.isUndefined(yield* second.lease.holder, "the file names a dead process")
        const { close, grant } = yield* acquireIn(second.lease)
        assert.strictEqual(grant.generation, 2n)
        assert.deepInclude(contentsOn(disk), second.self)
        yield* close
        assert.strictEqual(contentsOn(disk).pid, 0)
      }).pipe(Effect.provide(logs.layer))
      assert.deepStrictEqual(logs.lines, [
        "Info: acquired the coordinator lease of /app.db (generation 1)",
        "Info: took over the coordinator lease of /app.db (generation 2) from process 1001, which is gone",
        "Info: released the coordinator lease of /app.db (generation 2)"
      ])
    }))

  it.effect("CO-08 generations grow over a power loss: what was granted is on the disk", () =>
    Effect.gen(function*() {
      const disk = yield* makeDisk
      for (let generation = 1n; generation <= 3n; generation++) {
        const { lease } = yield* start(disk)
        const { grant } = yield* acquireIn(lease)
        assert.strictEqual(grant.generation, generation)
        assert.deepStrictEqual(disk.unsynced, [])
        disk.crash("lost")
      }
    }))

  it.effect("CO-08 damaged contents do not stand in the way: the lock decides, and the generation starts over", () =>
    Effect.gen(function*() {
      const disk = yield* makeDisk
      for (const length of [0, 10, 56, 300]) {
        disk.writeFile(path, new Uint8Array(length).fill(0x41))
        const { lease } = yield* start(disk)
        const { close, grant } = yield* acquireIn(lease)
        assert.strictEqual(grant.generation, 1n)
        assert.strictEqual(contentsOn(disk).generation, 1n)
        yield* close
      }
    }))

  it.effect("CO-07 CO-08 release by another is refused, and a second time too", () =>
    Effect.gen(function*() {
      const disk = yield* makeDisk
      const [first, second] = [yield* start(disk), yield* start(disk)]
      const { grant } = yield* acquireIn(first.lease)
      assert.strictEqual((yield* Effect.flip(second.lease.release(grant)))._tag, "LeaseNotHeld")
      assert.strictEqual((yield* Effect.flip(first.lease.release({ ...grant })))._tag, "LeaseNotHeld")
      assert.isTrue(grant.isCurrent())
      yield* first.lease.release(grant)
      assert.isFalse(grant.isCurrent())
      assert.strictEqual((yield* Effect.flip(first.lease.release(grant)))._tag, "LeaseNotHeld")
      assert.strictEqual((yield* acquireIn(second.lease)).grant.generation, 2n)
    }))

  it.effect("CO-08 a forced release ends a grant of this process and what a dead one left, but no live one", () =>
    Effect.gen(function*() {
      const disk = yield* makeDisk
      const [first, second] = [yield* start(disk), yield* start(disk)]
      yield* first.lease.forceRelease
      assert.isUndefined(disk.readFile(path))
      const { grant } = yield* acquireIn(first.lease)
      const refused = yield* Effect.flip(second.lease.forceRelease)
      assert.deepInclude(refused, { _tag: "LeaseHeld", holder: contentsOn(disk) })
      assert.isTrue(grant.isCurrent())

      yield* first.lease.forceRelease
      assert.isFalse(grant.isCurrent())
      assert.strictEqual(contentsOn(disk).pid, 0)

      const again = yield* acquireIn(first.lease)
      assert.strictEqual(again.grant.generation, 2n)
      disk.kill(first.self)
      yield* second.lease.forceRelease
      assert.deepStrictEqual(contentsOn(disk), {
        pid: 0,
        birth: 0n,
        generation: 2n,
        acquiredUnixMillis: 0,
        expiresUnixMillis: 0
      })
      assert.strictEqual((yield* acquireIn(second.lease)).grant.generation, 3n)
    }))

  it.effect("CO-08 a lease file that is replaced or removed under its holder ends the grant", () =>
    Effect.gen(function*() {
      const logs = collectLogs()
      yield* Effect.gen(function*() {
        const disk = yield* makeDisk
        const [first, second] = [yield* start(disk), yield* start(disk)]
        const { close, grant } = yield* acquireIn(first.lease)
        yield* second.vfs.remove(path)
        yield* TestClock.adjust("2 seconds")
        assert.isFalse(grant.isCurrent())
        const next = yield* acquireIn(second.lease)
        yield* close
        assert.isTrue(next.grant.isCurrent())
        assert.strictEqual(contentsOn(disk).pid, second.self.pid)
        yield* next.close
        const again = yield* acquireIn(first.lease)
        yield* second.vfs.remove(path)
        yield* TestClock.adjust("2 seconds")
        const fresh = yield* acquireIn(first.lease)
        yield* again.close
        assert.isTrue(fresh.grant.isCurrent(), "the end of a lost grant does not end a later one of the same process")
      }).pipe(Effect.provide(logs.layer))
      assert.deepStrictEqual(logs.lines.filter((line) => line.startsWith("Warn")), [
        `Warn: the coordinator lease of /app.db (generation 1) is lost: ${path} was replaced or removed`,
        `Warn: the coordinator lease of /app.db (generation 2) is lost: ${path} was replaced or removed`
      ])
    }))

  it.effect("CO-08 a failed acquisition leaves nothing locked; a failed renewal ends nothing", () =>
    Effect.gen(function*() {
      const logs = collectLogs()
      yield* Effect.gen(function*() {
        const disk = yield* makeDisk
        const { lease } = yield* start(disk)
        yield* Effect.scoped(Effect.gen(function*() {
          disk.inject({ operation: "syncData", path, fault: { kind: "error", code: "EIO" } })
          const failed = yield* Effect.flip(lease.acquire)
          assert.deepInclude(failed, { _tag: "VfsError", code: "EIO" })
          const { grant } = yield* acquireIn(lease)
          disk.inject({ operation: "write", path, fault: { kind: "error", code: "ENOSPC" } })
          yield* TestClock.adjust("2 seconds")
          assert.isTrue(grant.isCurrent())
          yield* TestClock.adjust("2 seconds")
          assert.isAbove(contentsOn(disk).expiresUnixMillis, 8000)
        }))
      }).pipe(Effect.provide(logs.layer))
      const warnings = logs.lines.filter((line) => line.startsWith("Warn"))
      assert.strictEqual(warnings.length, 1)
      assert.include(warnings[0], "cannot be renewed: cannot write /app.db.fsqlite/lease: ENOSPC")
    }))

  it.live("CO-08 a real second process holds it; SIGKILL gives it back", () =>
    Effect.gen(function*() {
      const real = `${yield* temporaryDirectory}/app.db`
      const lease = yield* CoordinatorLease.CoordinatorLease.pipe(
        Effect.provide(CoordinatorLease.layerFile({ database: real }).pipe(Layer.provide(NodeVfs.layer)))
      )
      const child = yield* Effect.acquireRelease(
        Effect.sync(() =>
          spawn(process.execPath, [join(import.meta.dirname, "programs", "holdLease.ts"), real], {
            stdio: ["ignore", "pipe", "inherit"]
          })
        ),
        (started) => Effect.sync(() => started.kill("SIGKILL"))
      )
      const printed: ReadonlyArray<unknown> = yield* Effect.promise(() => once(child.stdout, "data"))
      const generation = BigInt(String(printed[0]).trim())

      const refused = yield* refusedBy(lease)
      assert.strictEqual(refused._tag === "LeaseHeld" ? refused.holder?.pid : refused._tag, child.pid)
      assert.strictEqual((yield* lease.holder)?.pid, child.pid)
      assert.strictEqual((yield* Effect.flip(lease.forceRelease))._tag, "LeaseHeld")

      const exit = once(child, "exit")
      child.kill("SIGKILL")
      yield* Effect.promise(() => exit)
      assert.isUndefined(yield* lease.holder)
      const grant = yield* lease.acquire
      assert.isTrue(grant.generation > generation)
      assert.isTrue(grant.isCurrent())
    }))

  it.effect("is configured by TIDEMARK_DATABASE and TIDEMARK_LEASE_MILLIS", () =>
    Effect.gen(function*() {
      const disk = yield* makeDisk
      const configured = (variables: Record<string, string>) =>
        Layer.build(CoordinatorLease.layerConfig.pipe(
          Layer.provide(MemoryVfs.layerDisk(disk)),
          Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnvRecord(variables)))
        ))
      const context = yield* configured({ TIDEMARK_DATABASE: database, TIDEMARK_LEASE_MILLIS: "700" })
      yield* Context.get(context, CoordinatorLease.CoordinatorLease).acquire
      assert.strictEqual(contentsOn(disk).expiresUnixMillis, 700)
      for (const millis of ["99", "x", "3600001"]) {
        const refused = yield* Effect.flip(configured({ TIDEMARK_DATABASE: database, TIDEMARK_LEASE_MILLIS: millis }))
        assert.include(String(refused), "TIDEMARK_LEASE_MILLIS")
      }
    }))
})
