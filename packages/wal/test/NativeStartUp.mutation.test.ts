import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import fc from "fast-check"
import { seq } from "./support/certificates.ts"
import {
  capsuleFile,
  capsulesOf,
  type Committed,
  examineNativeAs,
  markersOf,
  nativeMark,
  recordAt,
  replayedPages,
  segment0,
  seqsOf
} from "./support/nativeFiles.ts"
import { type Contents, examineAs, imageOf, markedDatabase, markFile, without } from "./support/parallelFiles.ts"
import { buildWalBase, examine, files, flipped, path } from "./support/walFiles.ts"

// Commit 1 is in the database file and its capsule still there, 2 to 4 are not, 5 was never acknowledged.
const commits: ReadonlyArray<Committed> = [
  { seq: 1, pages: [2] },
  { seq: 2, pages: [3] },
  { seq: 3, pages: [2] },
  { seq: 4, pages: [4] }
]
const orphan: Committed = { seq: 5, pages: [1] }
const acknowledged = commits.slice(1)

const contents: Contents = {
  [files.database]: markedDatabase(),
  [markFile]: nativeMark(1),
  ...markersOf([{ start: 0, commits }]),
  ...capsulesOf([...commits, orphan])
}
const bytesOf = (file: string): Uint8Array => {
  const bytes = contents[file]
  if (bytes === undefined) throw new Error("a file of the database")
  return bytes
}

const imagesAfter = (count: number) =>
  new Map(
    acknowledged.slice(0, count).flatMap((commit) =>
      commit.pages.map((page) => [page, Buffer.from(imageOf(commit.seq, page))] as const)
    )
  )

type Answer = "all" | "tail" | "read-only" | "refused"

/**
 * Examines files that somebody has changed, and holds what is answered against what was acknowledged: `durable` is the
 * number of commits above the mark whose markers the stream still holds, whole or changed.
 */
const judge = (changed: Contents, durable = acknowledged.length): Effect.Effect<Answer> =>
  Effect.gen(function*() {
    const found = yield* examineNativeAs(changed)
    const { cases, live, problems, refusal } = found
    assert.deepStrictEqual(seqsOf(found), acknowledged.slice(0, live.length).map((commit) => commit.seq), "a prefix")
    const images = imagesAfter(live.length)
    const pages = replayedPages(changed, live)
    assert.deepStrictEqual([...pages.keys()], [...images.keys()])
    for (const [page, image] of images) {
      assert.isTrue(image.equals(pages.get(page) ?? image.subarray(1)), "never a wrong page")
    }
    if (refusal !== undefined) {
      return "refused"
    }
    if (found.isReadOnly) {
      assert.strictEqual(cases[0], "RC-26")
      assert.deepStrictEqual(found.orphans, [], "no capsule is said to be nobody's")
      assert.isTrue(problems.some(({ severity }) => severity === "corrupt"))
      return "read-only"
    }
    const needed = new Set(acknowledged.slice(0, durable).map(capsuleFile))
    const going = [...found.orphans.map((capsule) => capsule.path), ...found.removable, ...found.sweepable]
    if (live.length === durable) {
      assert.isTrue(found.tip >= seq(1 + durable))
      assert.deepStrictEqual(going.filter((file) => needed.has(file)), [])
      return "all"
    }
    assert.include(cases, "RC-14", "acknowledged commits are never gone without a word")
    assert.isTrue(found.tornTailBytes > 0 && problems.some(({ severity }) => severity === "tail"))
    assert.strictEqual(live.length, durable - 1, "only the last marker can look unfinished")
    return "tail"
  })

const masks = [0x01, 0x80, 0xff]
/** One of them, another for each byte. */
const maskAt = (at: number): number => masks[at % 3] ?? 1

const answersOf = (
  changes: Iterable<readonly [Contents, number?]>
): Effect.Effect<Readonly<Partial<Record<Answer, number>>>> =>
  Effect.gen(function*() {
    const answers: Partial<Record<Answer, number>> = {}
    for (const [changed, durable] of changes) {
      const answer = yield* judge(changed, durable)
      answers[answer] = (answers[answer] ?? 0) + 1
    }
    return answers
  })

function* flips(file: string, from = 0, to = bytesOf(file).length): Generator<readonly [Contents]> {
  for (let at = from; at < to; at++) yield [{ ...contents, [file]: flipped(bytesOf(file), at, maskAt(at)) }]
}

function* cuts(file: string, step = 1): Generator<readonly [Contents]> {
  for (let bytes = 0; bytes < bytesOf(file).length; bytes += step) {
    yield [{ ...contents, [file]: bytesOf(file).slice(0, bytes) }]
  }
}

describe("NativeStartUp: whatever the files hold", () => {
  it.effect("the files as they are", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* judge(contents), "all")
      const found = yield* examineNativeAs(contents)
      assert.deepStrictEqual(found.cases, ["RC-16", "RC-21", "RC-06"])
    }))

  it.effect("RC-26 each byte of the marker stream flipped", () =>
    Effect.gen(function*() {
      const header = yield* answersOf(flips(segment0, 0, recordAt(0)))
      assert.deepStrictEqual(header, { "read-only": 36 })
      // The genesis record is history. So is the record of the mark, but the first one above it names it.
      const history = yield* answersOf(flips(segment0, recordAt(0), recordAt(2)))
      assert.deepStrictEqual(history, { all: 2 * 88 })
      const live = yield* answersOf(flips(segment0, recordAt(2), recordAt(4)))
      assert.deepStrictEqual(live, { "read-only": 2 * 88 })
      // Without a record behind it a bad one is damage all the same: a commit that was acknowledged does not go.
      for (let at = recordAt(4); at < recordAt(5); at++) {
        for (const mask of masks) {
          const changed = flipped(bytesOf(segment0), at, mask)
          const answer = yield* judge({ ...contents, [segment0]: changed })
          // Unless the checksum ends in a zero now, as if its last byte had not been written.
          assert.strictEqual(answer, changed[recordAt(5) - 1] === 0 ? "tail" : "read-only")
        }
      }
    }))

  it.effect("RC-14 RC-26 the marker stream cut at each byte", () =>
    Effect.gen(function*() {
      for (let bytes = 0; bytes <= bytesOf(segment0).length; bytes++) {
        const records = bytes < recordAt(0) ? 0 : Math.floor((bytes - recordAt(0)) / 88)
        const durable = Math.max(0, records - 2)
        const changed = { ...contents, [segment0]: bytesOf(segment0).slice(0, bytes) }
        const answer = yield* judge(changed, durable)
        // A stream that ends before the commit that its own mark names has lost what was durable.
        assert.strictEqual(answer, records < 2 ? "read-only" : "all", `${bytes} bytes`)
        if (bytes % 5 !== 0) continue
        const found = yield* examineNativeAs(changed)
        const torn = bytes - recordAt(records)
        if (records >= 2) assert.strictEqual(found.tornTailBytes, torn)
        // Behind a whole header; a part of one is no end that an append has.
        assert.strictEqual(found.cases.includes("RC-14"), torn > 0 && bytes > recordAt(0), `${bytes} bytes`)
      }
    }))

  it.effect("RC-15 each byte of a capsule that counts flipped, and it cut at each byte", () =>
    Effect.gen(function*() {
      const [, needed] = acknowledged
      if (needed === undefined) throw new Error("there are three")
      const file = capsuleFile(needed)
      assert.deepStrictEqual(yield* answersOf(flips(file)), { refused: bytesOf(file).length })
      assert.deepStrictEqual(yield* answersOf(cuts(file)), { refused: bytesOf(file).length })
      assert.strictEqual(yield* judge(without(contents, file)), "refused")
    }))

  it.effect("RC-16 RC-21 whatever a capsule that does not count holds", () =>
    Effect.gen(function*() {
      for (const commit of [{ seq: 1, pages: [2] }, orphan]) {
        const file = capsuleFile(commit)
        // The images do not matter one by one.
        const answers = yield* answersOf([
          ...flips(file, 0, 60),
          ...flips(file, bytesOf(file).length - 33),
          ...cuts(file, 7)
        ])
        assert.deepStrictEqual(answers, { all: 93 + Math.ceil(bytesOf(file).length / 7) })
      }
    }))

  it.effect("each byte of the mark flipped, and it cut at each byte", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* answersOf([...flips(markFile), ...cuts(markFile)]), { refused: 2 * 48 })
      // All of the commits are above a mark that is not there, and the capsules of those that are not are gone or not.
      const unmarked = without(contents, markFile)
      const found = yield* examineNativeAs(unmarked)
      assert.deepStrictEqual([found.refusal, seqsOf(found)], [undefined, [1, 2, 3, 4]])
      const gone = yield* examineNativeAs(without(unmarked, capsuleFile({ seq: 1, pages: [2] })))
      assert.strictEqual(gone.refusal?._tag, "CapsuleLost")
    }))

  it.effect("each byte of the database's header flipped", () =>
    Effect.gen(function*() {
      const answers = yield* answersOf(flips(path, 0, 100))
      assert.sameMembers(Object.keys(answers), ["all", "refused"])
      // What matters of it here are its magic and its page size; of the two versions one that is 3 is enough.
      assert.strictEqual(answers.refused, 16 + 2)
    }))

  it.effect("several files damaged, cut, lost or exchanged at once", () =>
    Effect.gen(function*() {
      const names = Object.keys(contents)
      const damage = fc.record({
        name: fc.constantFrom(...names, files.walBase),
        how: fc.constantFrom("flip", "cut", "remove", "exchange"),
        at: fc.nat(700),
        with: fc.constantFrom(...names)
      })
      const full: Contents = { ...contents, [files.walBase]: buildWalBase(0n, { sealed: true }) }
      const images = new Map(commits.flatMap((commit) =>
        commit.pages.map((page) => [`${page} ${imageOf(commit.seq, page).join()}`, commit.seq] as const)
      ))
      for (
        const [damages, acceptLoss] of fc.sample(
          fc.tuple(fc.array(damage, { minLength: 1, maxLength: 3 }), fc.boolean()),
          250
        )
      ) {
        const changed: Record<string, Uint8Array> = { ...full }
        for (const { at, how, name, with: other } of damages) {
          const bytes = changed[name] ?? new Uint8Array(0)
          if (how === "remove") {
            delete changed[name]
          } else if (how === "cut") {
            changed[name] = bytes.slice(0, at % (bytes.length + 1))
          } else if (how === "exchange") {
            changed[name] = full[other] ?? bytes
          } else if (bytes.length > 0) {
            changed[name] = flipped(bytes, at % bytes.length)
          }
        }
        const found = yield* examineNativeAs(changed, { acceptLoss })
        const what = JSON.stringify({ damages, acceptLoss })
        for (const { offsets, pages, path: file, seq: at } of found.live) {
          pages.forEach((page, index) => {
            const offset = offsets[index] ?? 0
            const image = changed[file]?.slice(offset, offset + 512) ?? new Uint8Array(0)
            assert.strictEqual(images.get(`${page} ${image.join()}`), Number(at), what)
          })
        }
        const isOpened = found.refusal === undefined
        if (isOpened && found.live.length > 0) {
          const last = found.live.at(-1)?.seq ?? seq(0)
          assert.isTrue(found.tip >= last, what)
        }
        // What the native log has commits of, or cannot tell, no other log opens.
        if (found.live.length > 0 || (found.damage !== undefined && found.tip > (found.mark?.through ?? 0n))) {
          assert.isDefined((yield* examine(changed)).refusal, what)
          assert.isDefined((yield* examineAs(changed)).refusal, what)
        }
      }
    }))
})
