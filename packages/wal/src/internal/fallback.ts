/**
 * Whether the parallel WAL works conservatively although it was not told to, and why (PW-31).
 *
 * 1. While any reason holds, the mode is `conservative`, from the interval that is open when the reason comes.
 * 2. `lane_overflow` goes by itself: after a drain, and then a certificate that was made durable. An overflow in
 *    between begins this anew. Resuming does not clear it, because the overflow would still be queued.
 * 3. Every other reason says that something is wrong which the log cannot put right: it stays until somebody who has
 *    looked into it resumes.
 * 4. The reason that is reported is the first one that needs resuming, because what follows it is mostly its
 *    consequence; all of them are kept.
 */
import type { ParallelWalMode } from "../ParallelWalControl.ts"
import { type FallbackReason, noFallback } from "../ParallelWalTrace.ts"

type HeldReason = Exclude<FallbackReason, "lane_overflow">

/** @internal */
export class Fallback {
  /** In the order in which they came. */
  private readonly held = new Set<HeldReason>()
  private overflow: "none" | "queued" | "drained" = "none"

  get active(): boolean {
    return this.held.size > 0 || this.overflow !== "none"
  }

  /** The reason that is named in traces. */
  get reason(): FallbackReason | typeof noFallback {
    for (const first of this.held) return first
    return this.overflow === "none" ? noFallback : "lane_overflow"
  }

  /** Everything that holds at the moment. */
  get reasons(): ReadonlyArray<FallbackReason> {
    return this.overflow === "none" ? [...this.held] : [...this.held, "lane_overflow"]
  }

  /** The mode in which the open interval works. */
  modeOf(mode: ParallelWalMode): ParallelWalMode {
    return this.active ? "conservative" : mode
  }

  /** Answers whether the reason is a new one, so that it is logged once. */
  enter(reason: FallbackReason): boolean {
    if (reason === "lane_overflow") {
      const isNew = this.overflow === "none"
      this.overflow = "queued"
      return isNew
    }
    const isNew = !this.held.has(reason)
    this.held.add(reason)
    return isNew
  }

  /** Everything that had overflowed is in a segment. */
  noteDrained(): void {
    if (this.overflow === "queued") this.overflow = "drained"
  }

  /** A certificate of records is durable. Answers whether the fallback ended with it. */
  noteCleanCertificate(): boolean {
    if (this.overflow !== "drained") return false
    this.overflow = "none"
    return !this.active
  }

  /** Somebody has looked into it. Answers the reasons that are gone. */
  resume(): ReadonlyArray<FallbackReason> {
    const cleared = [...this.held]
    this.held.clear()
    return cleared
  }
}
