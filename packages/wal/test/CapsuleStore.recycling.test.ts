/** Files of capsules that serve for others: what power losses, failures and others who come in between make of it. */
import { assert, describe, it } from "@effect/vitest"
import type { Vfs } from "@tidemark/platform/Vfs"
import { Effect, Exit, Fiber, Scope } from "effect"
import type { EncodedCapsule } from "../src/CapsuleFormat.ts"
import { database, found, ids, newDisk, on, one, pathOf, storeOn, three, two } from "./support/capsuleDisks.ts"
import { capsuleOf } from "./support/capsules.ts"

/** Of the same length. */
const [old, next] = [capsuleOf(21n, [1]), capsuleOf(22n, [1])] as const

/** A store that has the file of this capsule as a spare. */
const storeWithSpare = Effect.fnUntraced(function*(vfs: Vfs["Service"], capsule: EncodedCapsule) {
  const store = yield* storeOn(vfs)
  yield* store.put(capsule)
  yield* store.recycle(capsule.id, capsule.bytes.length)
  return store
})

describe("CapsuleStore, recycling", () => {
  it.effect("CO-10 PG-06 a recycled file: what was synced is whole at every moment, whoever gets it next", () =>
    Effect.gen(function*() {
      const [first, other, second, third] = [
        capsuleOf(11n, [1]),
        capsuleOf(12n, [1]),
        capsuleOf(13n, [1]),
        capsuleOf(14n, [1])
      ] as const
      let synced = 0
      let mixed = 0
      for (const seed of [1, 2, 3, 4]) {
        const disk = newDisk({ async: { seed, maxTurns: 2 } })
        const trace = disk.record<EncodedCapsule>()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeOn(vfs)
            yield* Effect.all([store.put(first), store.put(other)], { concurrency: "unbounded" })
            yield* store.sync(ids(first, other))
            trace.mark(other)
            yield* store.recycle(first.id, first.bytes.length)
            yield* store.put(second)
            yield* store.sync([second.id])
            trace.mark(second)
            // Durable already, and a spare is there for it: it is not put into that.
            yield* store.put(first)
            yield* store.recycle(first.id, first.bytes.length)
            yield* Effect.all([store.put(second), store.put(third)], { concurrency: "unbounded" })
            yield* store.sync(ids(second, third))
            trace.mark(third)
          }))
        trace.stop()
        for (const state of trace.crashStates({ seed, exhaustiveUpTo: 8, perStep: 8 })) {
          for (const capsule of [other, second, third]) {
            const what = yield* found(state.disk, capsule)
            if (what === "refused") mixed++
            if (!state.marks.includes(capsule)) continue
            synced++
            assert.strictEqual(what, "whole", `seed ${seed}, ${state.label}`)
          }
        }
      }
      assert.isAbove(synced, 200)
      assert.isAbove(mixed, 20)
    }))

  it.effect("CO-10 the capsule that a spare once was is put while its file gets another name: both are whole", () =>
    Effect.gen(function*() {
      for (const operation of ["identify", "rename"] as const) {
        const disk = newDisk()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeWithSpare(vfs, old)
            const hold = disk.hold({ operation })
            const putting = yield* Effect.forkChild(store.put(next))
            yield* hold.reached
            const again = yield* Effect.forkChild(store.put(old))
            for (let turn = 0; turn < 20; turn++) yield* Effect.yieldNow
            yield* hold.release
            yield* Effect.all([Fiber.join(putting), Fiber.join(again)])
            yield* store.sync(ids(old, next))
          }))
        for (const capsule of [old, next]) {
          assert.strictEqual(yield* found(disk.afterCrash("lost"), capsule), "whole", operation)
        }
      }
    }))

  it.effect("CO-10 spares are removed while one of them is about to be put again: that one stays", () =>
    Effect.gen(function*() {
      // As many as are put at a time: the next one has its turn, and waits.
      const others = Array.from({ length: 16 }, (_, index) => capsuleOf(BigInt(30 + index), [1, 2]))
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* storeWithSpare(vfs, old)
          const holds = others.map((capsule) => disk.hold({ operation: "open", path: pathOf(capsule) }))
          const putting = yield* Effect.forEach(others, (capsule) => Effect.forkChild(store.put(capsule)))
          for (const { reached } of holds) yield* reached
          const again = yield* Effect.forkChild(store.put(old), { startImmediately: true })
          const removing = yield* Effect.forkChild(store.removeSpares, { startImmediately: true })
          for (const { release } of holds) yield* release
          yield* Effect.forEach([...putting, again, removing], Fiber.join)
          yield* store.sync([old.id])
        }))
      assert.strictEqual(yield* found(disk.afterCrash("lost"), old), "whole")
    }))

  it.effect("CO-10 a spare that is gone, or cannot be renamed, costs nothing but the spare", () =>
    Effect.gen(function*() {
      for (const operation of ["identify", "rename"] as const) {
        const disk = newDisk()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeWithSpare(vfs, old)
            const fault = disk.inject({ operation, fault: { kind: "error", code: "EIO" } })
            yield* store.put(next)
            yield* store.sync([next.id])
            assert.strictEqual(fault.hits, 1)
          }))
        assert.strictEqual(yield* found(disk.afterCrash("lost"), next), "whole", operation)
        assert.deepStrictEqual(disk.files, [database, pathOf(next)])
      }
    }))

  it.effect("RC-16 a spare that got its new name and cannot be opened: nothing is under the name, and it is put again", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* storeWithSpare(vfs, old)
          disk.inject({ operation: "open", path: pathOf(next), fault: { kind: "error", code: "EMFILE" } })
          assert.strictEqual((yield* Effect.flip(store.put(next))).code, "EMFILE")
          assert.deepStrictEqual(disk.files, [database])
          yield* store.put(next)
          yield* store.sync([next.id])
        }))
      assert.strictEqual(yield* found(disk.afterCrash("lost"), next), "whole")
    }))

  it.effect("CO-10 a capsule that is synced is no spare any more, whoever wants a file while it is", () =>
    Effect.gen(function*() {
      for (const when of ["before", "after"] as const) {
        const disk = newDisk()
        yield* on(disk, (vfs) =>
          Effect.gen(function*() {
            const store = yield* storeWithSpare(vfs, old)
            const held = disk.hold({ operation: "syncData", when })
            const syncing = yield* Effect.forkChild(store.sync([old.id]))
            yield* held.reached
            yield* store.put(next)
            yield* held.release
            yield* Fiber.join(syncing)
            yield* store.removeSpares
          }))
        assert.strictEqual(yield* found(disk.afterCrash("lost"), old), "whole", when)
      }
    }))

  it.effect("CO-10 a file of another length than was said is no spare: what is put next is whole", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* storeOn(vfs)
          // By another store, and by this one.
          yield* Effect.flatMap(storeOn(vfs), (other) => other.put(one))
          yield* store.put(three)
          yield* Effect.forEach([one, three], ({ id }) => store.recycle(id, two.bytes.length))
          assert.deepStrictEqual(disk.files, [database])
          yield* store.put(two)
          yield* store.sync([two.id])
        }))
      assert.strictEqual(yield* found(disk.afterCrash("lost"), two), "whole")
    }))

  it.effect("PG-06 spares make room for a capsule that finds none", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const store = yield* storeWithSpare(vfs, one)
          disk.capacityBytes = 512 + three.bytes.length + 100
          yield* store.put(three)
          yield* store.sync([three.id])
          const error = yield* Effect.flip(store.put(two))
          assert.strictEqual(error.code, "ENOSPC")
        }))
      assert.deepStrictEqual(disk.files, [database, pathOf(three)])
      assert.strictEqual(yield* found(disk.afterCrash("lost"), three), "whole")
    }))

  it.effect("GC-08 a store that has failed, or was closed, keeps no file for another capsule", () =>
    Effect.gen(function*() {
      const disk = newDisk()
      yield* on(disk, (vfs) =>
        Effect.gen(function*() {
          const scope = yield* Scope.make()
          const closed = yield* Scope.provide(storeOn(vfs), scope)
          yield* closed.put(one)
          yield* Scope.close(scope, Exit.void)
          yield* closed.recycle(one.id, one.bytes.length)
          assert.deepStrictEqual(disk.files, [database])
          const failed = yield* storeOn(vfs)
          yield* Effect.forEach([one, two], failed.put)
          disk.inject({ operation: "syncData", path: pathOf(two), fault: { kind: "lostSync" } })
          yield* Effect.flip(failed.sync([two.id]))
          yield* failed.recycle(one.id, one.bytes.length)
          assert.deepStrictEqual(disk.files, [database, pathOf(two)])
        }))
    }))
})
