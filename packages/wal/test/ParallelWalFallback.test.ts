import { assert, describe, it } from "@effect/vitest"
import fc from "fast-check"
import { Fallback } from "../src/internal/fallback.ts"
import { type FallbackReason, fallbackReasons } from "../src/ParallelWalTrace.ts"

const held = fallbackReasons.filter((reason) => reason !== "lane_overflow")

describe("Fallback", () => {
  it("PW-31 nothing holds at the beginning", () => {
    const fallback = new Fallback()
    assert.isFalse(fallback.active)
    assert.strictEqual(fallback.reason, "none")
    assert.deepStrictEqual(fallback.reasons, [])
    for (const mode of ["auto", "conservative", "shadow_compare"] as const) {
      assert.strictEqual(fallback.modeOf(mode), mode)
    }
  })

  it("PW-31 every reason forces conservative at once", () => {
    for (const reason of fallbackReasons) {
      const fallback = new Fallback()
      assert.isTrue(fallback.enter(reason))
      assert.isFalse(fallback.enter(reason), "the second time it is no news")
      assert.isTrue(fallback.active)
      assert.strictEqual(fallback.reason, reason)
      for (const mode of ["auto", "conservative", "shadow_compare"] as const) {
        assert.strictEqual(fallback.modeOf(mode), "conservative")
      }
    }
  })

  it("PW-31 lane overflow clears by a drain and then a clean certificate", () => {
    const fallback = new Fallback()
    fallback.enter("lane_overflow")
    assert.isFalse(fallback.noteCleanCertificate(), "a certificate before the drain does not count")
    assert.isTrue(fallback.active)
    fallback.noteDrained()
    assert.isTrue(fallback.active, "a drain alone does not clear it")
    assert.isTrue(fallback.noteCleanCertificate())
    assert.isFalse(fallback.active)
    assert.isFalse(fallback.noteCleanCertificate(), "it ends once")
  })

  it("PW-31 an overflow between the drain and the certificate begins anew", () => {
    const fallback = new Fallback()
    fallback.enter("lane_overflow")
    fallback.noteDrained()
    fallback.enter("lane_overflow")
    assert.isFalse(fallback.noteCleanCertificate())
    assert.isTrue(fallback.active)
  })

  it("PW-31 resuming does not clear an overflow that is still queued", () => {
    const fallback = new Fallback()
    fallback.enter("lane_overflow")
    assert.deepStrictEqual(fallback.resume(), [])
    fallback.noteDrained()
    assert.deepStrictEqual(fallback.resume(), [])
    assert.strictEqual(fallback.reason, "lane_overflow")
  })

  it("PW-31 the other reasons hold through drains and certificates until they are resumed", () => {
    for (const reason of held) {
      const fallback = new Fallback()
      fallback.enter(reason)
      fallback.noteDrained()
      assert.isFalse(fallback.noteCleanCertificate())
      assert.strictEqual(fallback.reason, reason)
      assert.deepStrictEqual(fallback.resume(), [reason])
      assert.strictEqual(fallback.reason, "none")
      assert.isFalse(fallback.active)
    }
  })

  it("PW-31 the first reason that needs resuming is the one that is named, and none is lost", () => {
    const fallback = new Fallback()
    fallback.enter("lane_overflow")
    fallback.enter("publication_mismatch")
    fallback.enter("certificate_gap")
    assert.strictEqual(fallback.reason, "publication_mismatch")
    assert.deepStrictEqual(fallback.reasons, ["publication_mismatch", "certificate_gap", "lane_overflow"])
    assert.deepStrictEqual(fallback.resume(), ["publication_mismatch", "certificate_gap"])
    assert.strictEqual(fallback.reason, "lane_overflow")
    fallback.noteDrained()
    assert.isTrue(fallback.noteCleanCertificate())
  })

  it("PW-31 a certificate does not end the fallback while another reason holds", () => {
    const fallback = new Fallback()
    fallback.enter("lane_overflow")
    fallback.enter("operator_forced")
    fallback.noteDrained()
    assert.isFalse(fallback.noteCleanCertificate())
    assert.deepStrictEqual(fallback.reasons, ["operator_forced"])
  })

  it("PW-31 behaves as a set of reasons and the state of the overflow", () => {
    const step = fc.oneof(
      fc.constantFrom(...fallbackReasons).map((reason) => ({ kind: "enter" as const, reason })),
      fc.constantFrom("drained", "certificate", "resume").map((kind) => ({ kind }))
    )
    fc.assert(fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const fallback = new Fallback()
      let reasons: Array<FallbackReason> = []
      let isDrained = false
      for (const step of steps) {
        if ("reason" in step) {
          fallback.enter(step.reason)
          if (!reasons.includes(step.reason)) reasons.push(step.reason)
          if (step.reason === "lane_overflow") isDrained = false
        } else if (step.kind === "drained") {
          fallback.noteDrained()
          isDrained = true
        } else if (step.kind === "certificate") {
          fallback.noteCleanCertificate()
          if (isDrained) reasons = reasons.filter((reason) => reason !== "lane_overflow")
        } else {
          fallback.resume()
          reasons = reasons.filter((reason) => reason === "lane_overflow")
        }
        assert.sameMembers([...fallback.reasons], reasons)
        assert.strictEqual(fallback.active, reasons.length > 0)
        assert.strictEqual(
          fallback.reason,
          reasons.find((reason) => reason !== "lane_overflow") ?? reasons[0] ?? "none"
        )
      }
    }))
  })
})
