/**
 * A transaction's hold on its snapshot. Every transaction makes one, so it is a class.
 */
import type { TxnToken } from "@tidemark/core/Scalars"
import type { Snapshot } from "@tidemark/core/Snapshot"
import type { LogReader } from "@tidemark/wal/CommitLog"
import type { SnapshotHold, SnapshotRegistry } from "@tidemark/wal/SnapshotRegistry"
import type { TransactionHold } from "../Coordination.ts"

export class Hold implements TransactionHold {
  readonly token: TxnToken
  readonly snapshot: Snapshot
  readonly reader: LogReader
  private readonly transactions: SnapshotRegistry
  private readonly hold: SnapshotHold
  private readonly onEnd: ((token: TxnToken) => void) | undefined
  private isReading = true
  private isOpen = true

  constructor(
    transactions: SnapshotRegistry,
    token: TxnToken,
    snapshot: Snapshot,
    reader: LogReader,
    onEnd?: (token: TxnToken) => void
  ) {
    this.transactions = transactions
    this.token = token
    this.snapshot = snapshot
    this.reader = reader
    this.onEnd = onEnd
    this.hold = transactions.acquire(snapshot.high)
  }

  endReading(): void {
    if (!this.isReading) return
    this.isReading = false
    this.reader.release()
  }

  end(): void {
    if (!this.isOpen) return
    this.isOpen = false
    this.endReading()
    this.transactions.release(this.hold)
    this.onEnd?.(this.token)
  }
}
