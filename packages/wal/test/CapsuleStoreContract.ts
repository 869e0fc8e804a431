/**
 * What a store of capsules promises on any file system. `platform` gives an empty one each time, and a path for the
 * database on it; its directory is there.
 */
import { assert, describe, it } from "@effect/vitest"
import { ObjectIdOrder } from "@tidemark/core/Scalars"
import { Vfs } from "@tidemark/platform/Vfs"
import { Effect, type Layer, Result, type Scope } from "effect"
import { capsulePath, capsulesDirectory, type EncodedCapsule } from "../src/CapsuleFormat.ts"
import { type CapsuleStore, type CapsuleStoreOptions, makeCapsuleStore } from "../src/CapsuleStore.ts"
import { capsuleOf, contentOf, imageOf } from "./support/capsules.ts"
import { flipped } from "./support/walFiles.ts"

export interface CapsulePlatform {
  readonly database: string
  readonly layer: Layer.Layer<Vfs>
}

export interface StoreUnderTest {
  readonly store: CapsuleStore["Service"]
  readonly vfs: Vfs["Service"]
  readonly database: string
}

const many = (count: number) => Array.from({ length: count }, (_, index) => capsuleOf(BigInt(index + 1), [index + 1]))

const idsOf = (capsules: ReadonlyArray<EncodedCapsule>) => capsules.map(({ id }) => id)

export const capsuleStoreContract = (
  name: string,
  platform: Effect.Effect<CapsulePlatform, never, Scope.Scope>
): void => {
  const test = <E>(
    title: string,
    body: (under: StoreUnderTest) => Effect.Effect<void, E, Scope.Scope>,
    options: Omit<CapsuleStoreOptions, "database"> = {}
  ) =>
    it.live(title, () =>
      Effect.flatMap(platform, ({ database, layer }) =>
        Effect.gen(function*() {
          const vfs = yield* Vfs
          const store = yield* makeCapsuleStore(vfs, { database, ...options })
          yield* body({ store, vfs, database })
        }).pipe(Effect.provide(layer))))

  const overwrite = ({ database, vfs }: StoreUnderTest, id: EncodedCapsule["id"], bytes: Uint8Array) =>
    Effect.scoped(Effect.gen(function*() {
      const file = yield* vfs.open(capsulePath(database, id), { access: "readWrite", create: "ifMissing" })
      yield* file.truncate(bytes.length)
      yield* file.write([bytes], 0)
    }))

  const bytesOf = ({ database, vfs }: StoreUnderTest, id: EncodedCapsule["id"]) =>
    Effect.scoped(Effect.gen(function*() {
      const file = yield* vfs.open(capsulePath(database, id), { access: "read" })
      const buffer = new Uint8Array(yield* file.size)
      yield* file.read(buffer, 0)
      return buffer
    }))

  describe(`CapsuleStore contract: ${name}`, () => {
    test("CO-10 what was put and synced is read back, whole", (under) =>
      Effect.gen(function*() {
        const { database, store } = under
        assert.strictEqual(store.database, database)
        assert.strictEqual(store.directory, capsulesDirectory(database))
        const capsule = capsuleOf(7n, [2, 5])
        yield* store.put(capsule)
        yield* store.sync([capsule.id])
        assert.deepStrictEqual(yield* bytesOf(under, capsule.id), capsule.bytes)
        const { image, ...read } = yield* store.read(capsule.id)
        const content = contentOf({ id: 7n, pages: [2, 5] })
        assert.deepStrictEqual(read, { ...content, id: capsule.id, digest: capsule.digest })
        assert.deepStrictEqual([image(0), image(1)], [imageOf(content, 2), imageOf(content, 5)])
      }))

    test("CO-10 nothing is there before the first put; syncing nothing is done at once", ({ database, store, vfs }) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* store.list, [])
        yield* store.sync([])
        yield* store.remove(capsuleOf(1n).id)
        assert.isUndefined(yield* vfs.identify(capsulesDirectory(database)))
      }))

    test("CO-10 putting a capsule again does no harm, one after another and at the same time", (under) =>
      Effect.gen(function*() {
        const { store } = under
        const capsule = capsuleOf(7n)
        yield* Effect.all([store.put(capsule), store.put(capsule), store.put(capsule)], { concurrency: "unbounded" })
        yield* store.sync([capsule.id, capsule.id])
        yield* store.put({ id: capsule.id, bytes: capsule.bytes.slice() })
        yield* store.sync([capsule.id])
        assert.deepStrictEqual(yield* bytesOf(under, capsule.id), capsule.bytes)
        assert.deepStrictEqual(yield* store.list, [capsule.id])
      }))

    test("RC-16 half a capsule, or damage, or more than a capsule under its name: the next put makes it whole", (under) =>
      Effect.gen(function*() {
        const { store } = under
        const capsule = capsuleOf(7n)
        yield* store.put(capsule)
        const found = [
          capsule.bytes.subarray(0, 100),
          capsule.bytes.subarray(0, 0),
          flipped(capsule.bytes, 77),
          new Uint8Array(capsule.bytes.length + 1).fill(9),
          new Uint8Array(10_000)
        ]
        for (const bytes of found) {
          yield* overwrite(under, capsule.id, bytes)
          yield* store.put(capsule)
          assert.deepStrictEqual(yield* bytesOf(under, capsule.id), capsule.bytes, `${bytes.length} bytes`)
          yield* store.sync([capsule.id])
        }
        assert.deepStrictEqual(yield* store.list, [capsule.id])
      }))

    test("CO-09 many at a time, of which few files stay open", ({ store }) =>
      Effect.gen(function*() {
        const capsules = many(100)
        yield* Effect.forEach(capsules, store.put, { concurrency: "unbounded", discard: true })
        yield* store.sync(idsOf(capsules))
        assert.deepStrictEqual(yield* store.list, idsOf(capsules).toSorted(ObjectIdOrder))
        for (const { digest, id } of capsules) assert.deepStrictEqual((yield* store.read(id)).digest, digest)
      }), { maxKeptFiles: 3, syncConcurrency: 2 })

    test(
      "CO-09 a capsule that another store has put is synced, and one that this store has closed",
      (under) =>
        Effect.gen(function*() {
          const { database, store, vfs } = under
          const other = yield* makeCapsuleStore(vfs, { database })
          const [theirs, ours] = [capsuleOf(1n), capsuleOf(2n)]
          yield* other.put(theirs)
          yield* store.put(ours)
          yield* store.sync([theirs.id, ours.id])
          assert.deepStrictEqual(yield* bytesOf(under, theirs.id), theirs.bytes)
        }),
      { maxKeptFiles: 0 }
    )

    test("CO-10 a capsule that is not there cannot be synced; with it the same call succeeds", ({ store }) =>
      Effect.gen(function*() {
        const [here, missing] = [capsuleOf(1n), capsuleOf(2n)]
        yield* store.put(here)
        const error = yield* Effect.flip(store.sync([here.id, missing.id]))
        assert.deepStrictEqual([error._tag, error.operation, error.code], ["VfsError", "open", "ENOENT"])
        yield* store.put(missing)
        yield* store.sync([here.id, missing.id])
      }))

    test("CO-10 a capsule that was removed is not synced as if it was there, although its file was open", ({ store }) =>
      Effect.gen(function*() {
        const capsule = capsuleOf(7n)
        yield* store.put(capsule)
        yield* store.remove(capsule.id)
        assert.deepStrictEqual(yield* store.list, [])
        assert.strictEqual((yield* Effect.flip(store.sync([capsule.id]))).code, "ENOENT")
        yield* store.remove(capsule.id)
        yield* store.put(capsule)
        yield* store.sync([capsule.id])
        yield* store.remove(capsule.id)
        assert.deepStrictEqual(yield* store.list, [])
      }))

    test("RC-25 listing ignores what is no capsule", ({ database, store, vfs }) =>
      Effect.gen(function*() {
        const capsule = capsuleOf(7n)
        yield* store.put(capsule)
        const name = Buffer.from(capsule.id).toString("hex")
        for (
          const other of [`.tmp-${name}-01234567`, name.slice(1), `${name}0`, "0123456789ABCDEF".repeat(2), "lock"]
        ) {
          yield* Effect.scoped(
            vfs.open(`${capsulesDirectory(database)}/${other}`, { access: "readWrite", create: "exclusive" })
          )
        }
        assert.deepStrictEqual(yield* store.list, [capsule.id])
      }))

    test("RC-15 a capsule that is missing, damaged, or another one is not read", (under) =>
      Effect.gen(function*() {
        const { database, store } = under
        const capsule = capsuleOf(7n)
        yield* store.put(capsule)
        yield* store.remove(capsule.id)
        const missing = yield* Effect.result(store.read(capsule.id))
        assert.isTrue(Result.isFailure(missing) && missing.failure._tag === "VfsError")
        const refusals: ReadonlyArray<readonly [string, Uint8Array]> = [
          ["TooShort", new Uint8Array(0)],
          ["TooShort", capsule.bytes.subarray(0, 47)],
          ["BadMagic", flipped(capsule.bytes, 0)],
          ["Truncated", capsule.bytes.subarray(0, -1)],
          ["BytesBehindDigest", new Uint8Array([...capsule.bytes, 0])],
          ["DigestMismatch", flipped(capsule.bytes, 500)],
          ["IdMismatch", capsuleOf(8n).bytes]
        ]
        for (const [code, bytes] of refusals) {
          yield* overwrite(under, capsule.id, bytes)
          const error = yield* Effect.flip(store.read(capsule.id))
          if (error._tag !== "CapsuleUnreadable") return assert.fail(error.message)
          const { id, issue, path } = error
          assert.deepStrictEqual([issue.code, path, id], [code, capsulePath(database, capsule.id), capsule.id])
          assert.strictEqual(error.bytes, bytes.length)
          assert.include(error.message, `${path} cannot be read (commit capsule: ${issue.field}`)
          assert.deepStrictEqual(yield* bytesOf(under, capsule.id), bytes)
        }
      }))

    test("PG-06 the file of a capsule that is not needed any more becomes that of the next one as long as it", (under) =>
      Effect.gen(function*() {
        const { database, store, vfs } = under
        const inode = (id: EncodedCapsule["id"]) =>
          Effect.map(vfs.identify(capsulePath(database, id)), (found) => found?.inode)
        const [first, second, longer] = [capsuleOf(1n, [1]), capsuleOf(2n, [2]), capsuleOf(3n, [3, 4])]
        yield* store.put(first)
        yield* store.sync([first.id])
        const before = yield* inode(first.id)
        yield* store.recycle(first.id, first.bytes.length)
        yield* store.put(longer)
        assert.notStrictEqual(yield* inode(longer.id), before)
        assert.strictEqual(yield* inode(first.id), before)
        yield* store.put(second)
        assert.strictEqual(yield* inode(second.id), before)
        assert.isUndefined(yield* inode(first.id))
        yield* store.sync(idsOf([second, longer]))
        assert.deepStrictEqual(yield* bytesOf(under, second.id), second.bytes)
        assert.deepStrictEqual(yield* bytesOf(under, longer.id), longer.bytes)
        assert.deepStrictEqual(yield* store.list, [second.id, longer.id].sort(ObjectIdOrder))
      }))

    test("PG-06 a spare is put again, or removed, like any other capsule", (under) =>
      Effect.gen(function*() {
        const { store } = under
        const [first, second, third] = [capsuleOf(1n), capsuleOf(2n), capsuleOf(3n)]
        yield* Effect.forEach([first, second], store.put)
        yield* Effect.forEach([first, second], ({ bytes, id }) => store.recycle(id, bytes.length))
        yield* store.put(second)
        yield* store.remove(first.id)
        yield* store.put(third)
        yield* store.sync(idsOf([second, third]))
        for (const { bytes, id } of [second, third]) assert.deepStrictEqual(yield* bytesOf(under, id), bytes)
        assert.deepStrictEqual(yield* store.list, idsOf([second, third]).sort(ObjectIdOrder))
      }))

    test("PG-06 what is kept stays within its bound, and goes when it is asked for", (under) =>
      Effect.gen(function*() {
        const { store } = under
        const capsules = many(4)
        yield* Effect.forEach(capsules, store.put)
        yield* Effect.forEach(capsules, ({ bytes, id }) => store.recycle(id, bytes.length))
        assert.strictEqual((yield* store.list).length, 2)
        yield* store.removeSpares
        assert.deepStrictEqual(yield* store.list, [])
        yield* store.put(capsuleOf(9n))
        assert.strictEqual((yield* store.list).length, 1)
      }), { maxSpareBytes: 2 * capsuleOf(1n, [1]).bytes.length })

    test(
      "PG-06 a spare that is used, put again or removed makes room for another one",
      (under) =>
        Effect.gen(function*() {
          const { store } = under
          const [first, second, third] = [capsuleOf(1n), capsuleOf(2n), capsuleOf(3n, [2, 5, 6])]
          yield* store.put(first)
          yield* store.recycle(first.id, first.bytes.length)
          yield* store.put(second)
          yield* store.recycle(second.id, second.bytes.length)
          assert.deepStrictEqual(yield* store.list, [second.id])
          yield* store.remove(second.id)
          yield* store.put(third)
          yield* store.recycle(third.id, third.bytes.length)
          assert.deepStrictEqual(yield* store.list, [third.id])
        }),
      { maxSpareBytes: capsuleOf(3n, [2, 5, 6]).bytes.length }
    )

    test("PG-06 many are put while others are given up: each is whole", (under) =>
      Effect.gen(function*() {
        const { store } = under
        const capsules = many(120)
        for (let from = 0; from < capsules.length; from += 20) {
          const batch = capsules.slice(from, from + 20)
          const old = capsules.slice(Math.max(0, from - 20), from)
          yield* Effect.all([
            ...batch.map(store.put),
            ...old.map(({ bytes, id }) => store.recycle(id, bytes.length))
          ], { concurrency: "unbounded" })
          yield* store.sync(idsOf(batch))
          for (const { bytes, id } of batch) assert.deepStrictEqual(yield* bytesOf(under, id), bytes)
        }
      }))
  })
}
