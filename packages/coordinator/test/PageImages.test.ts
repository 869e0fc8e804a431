import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { PageImages } from "../src/internal/pageImages.ts"
import { page } from "./support/database.ts"

/** Few pages, so that the first one goes and comes back, alone and beside others. */
const anyPage = fc.integer({ min: 1, max: 4 }).map(page)

const anyStep = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("set" as const), page: anyPage, value: fc.nat(255) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("delete" as const), page: anyPage }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("clear" as const) }) }
)

const received = (images: PageImages, isOwn: boolean) => {
  const pages: Array<readonly [number, Uint8Array, boolean]> = []
  images.giveTo({ receive: (number, bytes, own) => pages.push([number, bytes, own]) }, isOwn)
  return pages.sort(([a], [b]) => a - b)
}

const assertSame = (images: PageImages, model: ReadonlyMap<number, Uint8Array>) => {
  const entries = Array.from(model).sort(([a], [b]) => a - b)
  assert.strictEqual(images.size, model.size)
  for (const number of [1, 2, 3, 4, 5]) {
    assert.strictEqual(images.get(page(number)), model.get(number))
    assert.strictEqual(images.has(page(number)), model.has(number))
  }
  assert.deepStrictEqual(images.pages(), entries.map(([number]) => page(number)))
  assert.deepStrictEqual(Array.from(images.toMap()).sort(([a], [b]) => a - b), entries)
  for (const isOwn of [true, false]) {
    assert.deepStrictEqual(received(images, isOwn), entries.map(([number, bytes]) => [number, bytes, isOwn]))
  }
}

describe("PageImages", () => {
  it("CO-11 whatever is written, deleted and cleared: it holds what a map holds, each page once", () => {
    fc.assert(fc.property(fc.array(anyStep, { maxLength: 40, size: "max" }), (steps) => {
      const images = new PageImages()
      const model = new Map<number, Uint8Array>()
      for (const step of steps) {
        if (step.kind === "set") {
          const bytes = Uint8Array.of(step.value)
          images.set(step.page, bytes)
          model.set(step.page, bytes)
        } else if (step.kind === "delete") {
          assert.strictEqual(images.delete(step.page), model.delete(step.page))
        } else {
          images.clear()
          model.clear()
        }
        assertSame(images, model)
      }
    }))
  })

  it("what was answered stays as it was", () => {
    const images = new PageImages()
    images.set(page(3), Uint8Array.of(3))
    images.set(page(1), Uint8Array.of(1))
    const pages = images.pages()
    const map = images.toMap()
    images.set(page(2), Uint8Array.of(2))
    images.delete(page(3))
    assert.deepStrictEqual(pages, [page(1), page(3)])
    assert.deepStrictEqual(Array.from(map.keys()), [page(3), page(1)])
  })
})
